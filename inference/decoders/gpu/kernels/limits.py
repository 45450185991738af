"""Where top_k and top_p end: the least weight of a row that they keep.

A limit is one of the numbers that a logit can be, so it is found as a word in a dictionary is: the weights above a few
of these numbers (thresholds) are added up, which is a reading of the row, and the search goes on between the two that
are next to the limit. Logits of 16 bits leave little to search.

Thresholds are placed where the limit is expected. Those of top_p's first reading are where it would be if the logits,
each counted by its weight, were distributed normally; those of the next readings follow from the amounts at both ends
of what is left. The search ends as soon as a single token is left between the two ends.
"""

import triton
import triton.language as tl

from inference.decoders.gpu.kernels.meeting import exchange

THRESHOLDS = tl.constexpr(4)
"""The number of thresholds in a reading."""
EXPECTED = tl.constexpr(9)
"""From this reading on, and in each fourth one before it, thresholds divide what is left evenly. So the search ends."""


@triton.jit
def depths(logit, temperature, largest):
    """The logarithm of each logit's weight: its distance from the largest of the row, divided by the temperature.

    A logit is divided by multiplying it with the inverse and correcting the product by the remainder, which rounds as a
    division does and takes a third of the instructions. The result for -inf is NaN.
    """
    inverse = tl.div_rn(tl.full([], 1.0, tl.float32), temperature)
    quotient = logit * inverse
    quotient = tl.fma(tl.fma(-quotient, temperature, logit), inverse, quotient)
    return quotient - tl.div_rn(largest, temperature)


@triton.jit
def bits_of(weight):
    """The order of positive numbers is that of their bits as an integer."""
    return weight.to(tl.int32, bitcast=True)


@triton.jit
def weight_of(bits):
    return bits.to(tl.float32, bitcast=True).to(tl.float64)


@triton.jit
def block_of(weights, first, end, WIDTH: tl.constexpr):
    """Some weights [WIDTH], 0 behind the last one, and their places."""
    places = first + tl.arange(0, WIDTH)
    return tl.load(weights + places, mask=places < end, other=0.0), places


@triton.jit
def limited(
    weights, notes, arrived, meeting, part, moments, top_k, top_p, temperature, largest, begin, end, vocabulary,
    SHIFT: tl.constexpr, PARTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """What top_k and then top_p keep: all weights above the first number, given as bits; of those that equal it, at
    most the second number; and no more of these than the sum of all that is kept needs to reach the third.

    Args:
        moments: the sums of this part's weights, of their products with their depths, and with the depths' squares.
    """
    least = tl.full([], 0, tl.int32)
    ties = tl.full([], 0, tl.int32)
    goal = tl.full([], float("inf"), tl.float64)
    # All weights below this number are 0 in float32.
    low = _key(largest - 110 * temperature, SHIFT) - 1
    is_cut = (top_k > 0) & (top_k < vocabulary)
    if is_cut:
        low, least, above, _, meeting = _cut(
            weights, notes, arrived, meeting, part, top_k, least, ties, low, top_k * 0 + vocabulary, largest,
            0.0, False, temperature, largest, begin, end, False, SHIFT, PARTS, WIDTH,
        )  # fmt: skip
        ties = (top_k - above).to(tl.int32)
        low -= 1  # so that there is a reading, which adds up what is kept
    if top_p < 1:
        every, meeting = exchange(moments, notes, arrived, meeting, part, PARTS)
        sums = tl.sum(every, 0)
        whole, first, second = _at(sums, 0), _at(sums, 1), _at(sums, 2)
        mean = first / whole
        spread = tl.sqrt(tl.maximum(second / whole - mean * mean, 0.0)).to(tl.float32) * temperature
        guess = largest + mean.to(tl.float32) * temperature - _normal_quantile(top_p.to(tl.float32)) * spread
        # All weights below this one would be less than what top_p leaves out, even if all tokens had it: together the
        # weights are at least 1.
        floor = tl.log(((1 - top_p) / vocabulary / 2).to(tl.float32))
        low = tl.maximum(low, _key(largest + temperature * tl.maximum(floor, -110.0), SHIFT) - 1)
        _, limit, _, goal, meeting = _cut(
            weights, notes, arrived, meeting, part, top_p, least, ties, low, whole, guess, spread, is_cut,
            temperature, largest, begin, end, True, SHIFT, PARTS, WIDTH,
        )  # fmt: skip
        ties = tl.where(limit > least, vocabulary, ties)
        least = tl.maximum(limit, least)
    return least, ties, goal, meeting


@triton.jit
def _normal_quantile(share):
    """How many standard deviations above the mean a share of a normal distribution ends: Tukey's approximation."""
    rest = tl.maximum(1 - share, 1e-30)
    return 4.91 * (tl.exp(0.14 * tl.log(tl.maximum(share, 1e-30))) - tl.exp(0.14 * tl.log(rest)))


@triton.jit
def _cut(
    weights, notes, arrived, meeting, part, limit, least, ties, low, below, guess, spread, IS_CUT, temperature,
    largest, begin, end, BY_MASS: tl.constexpr, SHIFT: tl.constexpr, PARTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The largest weight that with all larger ones reaches the goal: its key, its bits, the amount of the larger ones,
    and the goal.

    The amount of weights is their number, and the limit is the goal; or it is their sum, and the limit is the goal's
    share of all that has been kept.

    Args:
        low: the key of a logit. The weights from there on reach the goal.
        below: the amount of these, or more.
        guess, spread: where the limit is expected, and how far from there it may be.
        IS_CUT: whether `least` and `ties` say what has been kept. Otherwise that is `below`.
    """
    high = _key(largest, SHIFT) + 1
    goal = limit
    if BY_MASS:
        goal = limit * below
    above = goal * 0.0  # the amount from `high` on
    passes = 0
    is_found = tl.full([], False, tl.int1)
    while (high - low > 1) & (is_found == 0):
        keys = _expected(
            low, high, below, above, goal, guess, spread, IS_CUT, temperature, largest, passes, BY_MASS, SHIFT
        )
        thresholds = bits_of(tl.exp(depths(_logit(keys, SHIFT), temperature, largest)))
        # What top_k keeps is added up with the first thresholds.
        is_whole = BY_MASS & IS_CUT & (passes == 0) & (tl.arange(0, THRESHOLDS) == 0)
        thresholds = tl.where(is_whole, least + 1, thresholds)
        found = _amounts(weights, thresholds, begin, end, BY_MASS, WIDTH)
        every, meeting = exchange(found, notes, arrived, meeting, part, PARTS)
        amounts = tl.sum(every, 0)
        if BY_MASS & IS_CUT & (passes == 0):
            below = tl.sum(tl.where(is_whole, amounts, 0.0), 0) + ties * weight_of(least)
            goal = limit * below
        is_enough, is_short = (amounts >= goal) & ~is_whole, (amounts < goal) & ~is_whole
        above = tl.maximum(above, tl.max(tl.where(is_short, amounts, 0.0), 0))
        below = tl.minimum(below, tl.min(tl.where(is_enough, amounts, below), 0))
        low = tl.maximum(low, tl.max(tl.where(is_enough, keys, low), 0))
        high = tl.minimum(high, tl.min(tl.where(is_short, keys, high), 0))
        one = _one(low, temperature, largest, BY_MASS, SHIFT)
        # A single token is between the two, if sums in float32 can tell; or the goal is met.
        is_found = ((below - above < 1.5 * one) & (one > 1e-6 * below)) | (below == goal)
        passes += 1
    bits = bits_of(tl.exp(depths(_logit(low, SHIFT), temperature, largest)))
    # If it is found, all weights from there on are kept.
    return low, tl.where(is_found, bits - 1, bits), tl.where(is_found, below, above), goal, meeting


@triton.jit
def _one(key, temperature, largest, BY_MASS: tl.constexpr, SHIFT: tl.constexpr):
    """What one token of this logit amounts to."""
    one = tl.full([], 1.0, tl.float64)
    if BY_MASS:
        one = tl.exp(depths(_logit(key, SHIFT), temperature, largest)).to(tl.float64)
    return one


@triton.jit
def _expected(
    low, high, below, above, goal, guess, spread, IS_CUT, temperature, largest, passes,
    BY_MASS: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """The thresholds' keys, all of them between `low` and `high`.

    After the first reading, the amount of weights is taken to fall exponentially from the one to the other. How far the
    limit may be from there is what the count of tokens between the two may vary by, as a random one does: its root.
    Keys that are no more than thresholds are all among them.
    """
    number = tl.arange(0, THRESHOLDS)
    offset = number - (THRESHOLDS - 1) / 2
    first, last = _logit(low, SHIFT), _logit(high, SHIFT)
    fall = tl.log((below / tl.maximum(above, 0.5)).to(tl.float32))
    center = first + (last - first) * tl.log((below / tl.maximum(goal, 1e-30)).to(tl.float32)) / fall
    tokens = ((below - above) / tl.maximum(_one(low, temperature, largest, BY_MASS, SHIFT), 1e-38)).to(tl.float32)
    apart = 0.5 * (last - first) / tl.sqrt(tl.maximum(tokens, 1.0))
    places = center + apart * offset * tl.abs(offset)
    if passes == 0:
        center = guess
        places = (
            guess + 0.1 * spread * offset * tl.abs(offset)
            if BY_MASS
            else guess - 0.75 * temperature * tl.exp2(1.32 * number)
        )
    # At least one key apart.
    nearest = _key(center, SHIFT) + number - THRESHOLDS // 2 + 1
    keys = _key(places, SHIFT)
    keys = tl.where(offset < 0, tl.minimum(keys, nearest), tl.maximum(keys, nearest))
    is_even = (high - low <= THRESHOLDS + 1) | (passes >= EXPECTED) | (passes % 4 == 3)
    if BY_MASS:
        is_even = is_even | ((passes == 0) & IS_CUT)
    else:  # the first ones fall from the largest logit, each farther than the one before
        keys = tl.where(passes == 0, _key(places, SHIFT), keys)
    keys = tl.where(is_even, low + tl.cdiv(high - low, THRESHOLDS + 1) * (number + 1), keys)
    return tl.minimum(tl.maximum(keys, low + 1), high - 1)


@triton.jit
def _key(logit, SHIFT: tl.constexpr):
    """The place of a logit among all numbers of its type, in rising order."""
    bits = bits_of(logit.to(tl.float32)) >> SHIFT
    return tl.where(bits < 0, bits ^ (0x7FFFFFFF >> SHIFT), bits).to(tl.int64)


@triton.jit
def _logit(key, SHIFT: tl.constexpr):
    """The number at this place."""
    key = key.to(tl.int32)
    bits = tl.where(key < 0, key ^ (0x7FFFFFFF >> SHIFT), key) << SHIFT
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _amounts(weights, thresholds, begin, end, BY_MASS: tl.constexpr, WIDTH: tl.constexpr):
    """The amounts of a part's weights whose bits are at least each of the thresholds."""
    bits0, bits1 = _at(thresholds, 0), _at(thresholds, 1)
    bits2, bits3 = _at(thresholds, 2), _at(thresholds, 3)
    # Four vectors: of a matrix, Triton would have every weight change threads first.
    sums0, sums1 = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
    sums2, sums3 = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
    for first in range(begin, end, WIDTH):
        weight, places = block_of(weights, first, end, WIDTH)
        bits = bits_of(weight)
        amount = weight
        if not BY_MASS:
            amount = (places < end).to(tl.float32)
        sums0 += tl.where(bits >= bits0, amount, 0.0)
        sums1 += tl.where(bits >= bits1, amount, 0.0)
        sums2 += tl.where(bits >= bits2, amount, 0.0)
        sums3 += tl.where(bits >= bits3, amount, 0.0)
    number = tl.arange(0, THRESHOLDS)
    amounts = tl.where(number == 0, tl.sum(sums0, 0), tl.sum(sums1, 0))
    amounts = tl.where(number == 2, tl.sum(sums2, 0), amounts)
    return tl.where(number == 3, tl.sum(sums3, 0), amounts).to(tl.float64)


@triton.jit
def _at(numbers, place):
    return tl.sum(tl.where(tl.arange(0, numbers.shape[0]) == place, numbers, 0), 0)

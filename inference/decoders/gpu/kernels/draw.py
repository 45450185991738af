"""A random token for each row of logits, in one kernel: temperature, min_p, top_k, top_p, and the draw.

`inference.sampling.draw` says the same in operators of torch, which are about 310 kernels, and the tests hold this
against it; choose.cpp does for a CPU. A few programs share a row, whatever the other rows ask for. They read it once
for the largest logit, once for the weights, a few times for each limit, and once or twice for the token; after each
time they meet (meeting.py).

Nothing is sorted. A limit is one of the numbers that a logit can be, so it is found as a word in a dictionary is: the
weights above a few of these numbers are added up, and the search goes on between the two that are next to the limit.
Logits of 16 bits leave little to search.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.decoders.gpu.kernels.choice import peak
from inference.decoders.gpu.kernels.meeting import NOTES, exchange, parts_for, together
from inference.decoders.gpu.kernels.overlap import wait_for_input

SETTINGS = ("temperature", "min_p", "top_k", "top_p", "uniform")
FIRST_SETTING = tl.constexpr(NOTES.value - len(SETTINGS))
"""At the first meeting a program notes three numbers, and then the settings."""
ALIGNED = 64
"""A part begins at a multiple of so many tokens: where memory is read in the widest pieces."""
UNUSED_BITS = {torch.float32: 0, torch.float16: 13, torch.bfloat16: 16}
"""How many of float32's last bits are zero in every number of a type."""


def draw(logits: Tensor, settings: Tensor, counts: Tensor, parts: int | None = None) -> Tensor:
    """A token for each row of logits [rows, vocabulary], -1 if it is broken, as `most_likely` says.

    Args:
        settings: [rows, len(SETTINGS)], float64. A temperature of 0 takes the largest logit; a top_k of 0 is none. They
            may be in pinned memory of the host, which must not change before the kernel has run.
        counts: [rows], int32, zeros: there a row's programs count how many have come to their meetings.
        parts: how many programs share a row.
    """
    rows, vocabulary = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        parts = parts or parts_for(rows, logits)
        part_size = triton.cdiv(triton.cdiv(vocabulary, parts), ALIGNED) * ALIGNED
        weights = torch.empty(rows, vocabulary, dtype=torch.float32, device=logits.device)
        notes = torch.empty(rows, 2, parts, NOTES.value, dtype=torch.float64, device=logits.device)
        size = {"PARTS": parts, "SHIFT": UNUSED_BITS[logits.dtype], **tile(part_size, parts)}
        how = together(logits, parts)
        _draw[(rows, parts)](
            logits, settings, counts, weights, notes, tokens, vocabulary, logits.stride(0), part_size, **size, **how
        )
    return tokens


def tile(part_size: int, parts: int) -> dict[str, int]:
    """Into how many pieces what may be the limit is cut at a time; how many weights a program holds at once.

    Where many programs meet, meetings take the time, and there should be few; otherwise the comparisons do.
    """
    thresholds, widest = (8, 1024) if parts > 8 else (4, 4096)
    width = min(widest, max(512, int(triton.next_power_of_2(part_size))))
    return {"THRESHOLDS": thresholds, "WIDTH": width, "num_warps": 8}


@triton.jit
def _draw(
    logits, settings, counts, weights, notes, tokens, vocabulary, stride, part_size,
    SHIFT: tl.constexpr, THRESHOLDS: tl.constexpr,
    PARTS: tl.constexpr, WIDTH: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    wait_for_input(OVERLAPS)
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    begin = part * part_size
    end = tl.minimum(begin + part_size, vocabulary)
    logits += row * stride
    weights += row * vocabulary
    notes += row * 2 * PARTS * NOTES
    settings += row * (NOTES - FIRST_SETTING)
    arrived = counts + row
    largest, token, every, meeting = _first_meeting(
        logits, settings, notes, arrived, part, begin, end, vocabulary, PARTS, WIDTH
    )
    temperature, min_p = _setting(every, 0).to(tl.float32), _setting(every, 1).to(tl.float32)
    top_k, top_p, uniform = _setting(every, 2), _setting(every, 3), _setting(every, 4)
    if (token >= 0) & (temperature > 0):
        _weigh(logits, weights, largest, temperature, min_p, begin, end, WIDTH)
        tl.debug_barrier()  # what one thread has stored, another will read
        least, ties, meeting = _limited(
            weights, notes, arrived, meeting, part, top_k, top_p, temperature, largest, begin, end, vocabulary,
            SHIFT, THRESHOLDS, PARTS, WIDTH,
        )  # fmt: skip
        token = _drawn(weights, notes, arrived, meeting, part, least, ties, uniform, begin, end, PARTS, WIDTH)
        if token >= 0:
            tl.store(tokens + row, token.to(tl.int64))
    elif part == 0:
        tl.store(tokens + row, token.to(tl.int64))


@triton.jit
def _first_meeting(
    logits, settings, notes, arrived, part, begin, end, vocabulary, PARTS: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """A row's largest logit, its first place (-1 if the row is broken), and what each program noted, [PARTS, NOTES].

    Settings in the host's memory take a microsecond to read, and longer if many programs ask for them at once. So one
    program of a row does, while it looks for the largest logit, and notes them for the others.
    """
    number = tl.arange(0, NOTES)
    is_setting = number >= FIRST_SETTING + part * NOTES  # never where the part is not 0
    own = tl.load(settings + number - FIRST_SETTING, mask=is_setting, other=0.0)
    most, place, is_broken = peak(logits, begin, end, WIDTH)
    own = tl.where(number == 0, most.to(tl.float64), own)
    own = tl.where(number == 1, place, own)
    own = tl.where(number == 2, is_broken.to(tl.int32), own)
    every, meeting = exchange(own, notes, arrived, tl.full([], 0, tl.int32), part, PARTS)
    peaks, places = _note(every, 0), _note(every, 1)
    largest = tl.max(peaks, 0)
    token = tl.min(tl.where(peaks == largest, places, vocabulary), 0).to(tl.int32)
    is_broken = (tl.max(_note(every, 2), 0) > 0) | (largest == float("-inf"))
    return largest.to(tl.float32), tl.where(is_broken, -1, token), every, meeting


@triton.jit
def _setting(every, number):
    """A setting of the row. Only the first program has noted it, the others 0."""
    return tl.max(_note(every, FIRST_SETTING + number), 0)


@triton.jit
def _note(every, number):
    """One of the numbers that all programs have told, [PARTS]."""
    return tl.max(tl.where(tl.arange(0, NOTES)[None, :] == number, every, float("-inf")), 1)


@triton.jit
def _weigh(logits, weights, largest, temperature, min_p, begin, end, WIDTH: tl.constexpr):
    """Store the weight of each token, 1 for the most likely one and 0 for those below min_p."""
    columns = tl.arange(0, WIDTH)
    for first in range(begin, end, WIDTH):
        places = first + columns
        is_token = places < end
        logit = tl.load(logits + places, mask=is_token, other=float("-inf"))
        weight = _weight(logit, temperature, largest)
        tl.store(weights + places, tl.where(weight < min_p, 0.0, weight), mask=is_token)


@triton.jit
def _weight(logit, temperature, largest):
    return tl.exp(tl.div_rn(logit.to(tl.float32), temperature) - tl.div_rn(largest, temperature))


@triton.jit
def _limited(
    weights, notes, arrived, meeting, part, top_k, top_p, temperature, largest, begin, end, vocabulary,
    SHIFT: tl.constexpr, THRESHOLDS: tl.constexpr, PARTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """What top_k and then top_p keep: the weights above the first number, and so many of those that equal it."""
    least = tl.full([], 0, tl.int32)  # the bits of a weight
    ties = tl.full([], 0, tl.int32)
    if (top_k > 0) & (top_k < vocabulary):
        least, above, _, meeting = _cut(
            weights, notes, arrived, meeting, part, top_k, least, ties, tl.full([], float("-inf"), tl.float32),
            temperature, largest, begin, end, False, SHIFT, THRESHOLDS, PARTS, WIDTH,
        )  # fmt: skip
        ties = (top_k - above).to(tl.int32)
    if top_p < 1:
        # All weights below this one would be less than what top_p leaves out, even if all tokens had it: together the
        # weights are at least 1.
        floor = tl.log(((1 - top_p) / vocabulary / 2).to(tl.float32))
        limit, above, goal, meeting = _cut(
            weights, notes, arrived, meeting, part, top_p, least, ties, largest + temperature * floor, temperature,
            largest, begin, end, True, SHIFT, THRESHOLDS, PARTS, WIDTH,
        )  # fmt: skip
        missing = tl.ceil((goal - above) / tl.maximum(_weight_of(limit), 1e-38))
        enough = tl.minimum(tl.maximum(missing, 1.0), vocabulary).to(tl.int32)
        # A sum that is rounded otherwise must not take in what top_k has left out.
        ties = tl.where(limit > least, enough, tl.where(least > 0, tl.minimum(enough, ties), ties))
        least = tl.maximum(limit, least)
    return least, ties, meeting


@triton.jit
def _cut(
    weights, notes, arrived, meeting, part, limit, least, ties, lowest, temperature, largest, begin, end,
    BY_MASS: tl.constexpr, SHIFT: tl.constexpr, THRESHOLDS: tl.constexpr, PARTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The largest weight, as bits, that with all larger ones reaches the goal; the amount of the larger; and the goal.

    The amount of weights is their number, of which the limit is the goal; or their sum, and then the limit is the
    goal's share of all that `least` and `ties` have kept. The weight is that of a logit between the lowest and the
    largest: a few logits cut what is between them into pieces, until there is none left in between.
    """
    # The first of these reaches the goal, the last does not.
    low, high = _key(tl.maximum(lowest, -3e38), SHIFT) - 1, _key(largest, SHIFT) + 1
    goal = limit
    above = goal * 0.0
    passes = 0
    while high - low > 1:
        keys = _between(low, high, passes, SHIFT, THRESHOLDS)
        thresholds = _weight(_logit(keys, SHIFT), temperature, largest).to(tl.int32, bitcast=True)
        # The first time, one of the thresholds lets all pass that has been kept.
        is_whole = BY_MASS & (passes == 0) & (tl.arange(0, THRESHOLDS) == 0)
        thresholds = tl.where(is_whole, least + 1, thresholds)
        found = _amounts(weights, thresholds, begin, end, BY_MASS, WIDTH)
        every, meeting = exchange(found, notes, arrived, meeting, part, PARTS)
        amounts = tl.sum(every, 0)
        if BY_MASS & (passes == 0):
            goal = limit * (tl.sum(tl.where(is_whole, amounts, 0.0), 0) + ties * _weight_of(least))
        is_cut = (keys < high) & ~is_whole
        is_enough, is_short = (amounts >= goal) & is_cut, (amounts < goal) & is_cut
        above = tl.maximum(above, tl.max(tl.where(is_short, amounts, 0.0), 0))
        low = tl.maximum(low, tl.max(tl.where(is_enough, keys, low), 0))
        high = tl.minimum(high, tl.min(tl.where(is_short, keys, high), 0))
        passes += 1
    return _weight(_logit(low, SHIFT), temperature, largest).to(tl.int32, bitcast=True), above, goal, meeting


@triton.jit
def _between(low, high, passes, SHIFT: tl.constexpr, THRESHOLDS: tl.constexpr):
    """Where to cut: at first evenly by value, because half of all numbers are next to 0; in the end evenly by place."""
    numbers = 1 + tl.arange(0, THRESHOLDS)
    first, last = _logit(low, SHIFT), _logit(high, SHIFT)
    by_value = _key(first + (last - first) / (THRESHOLDS + 1) * numbers, SHIFT)
    by_place = low + tl.cdiv(high - low, THRESHOLDS + 1) * numbers
    keys = tl.where((passes < 3) & (first > -1e30), by_value, by_place)
    return tl.minimum(tl.maximum(keys, low + 1), high)


@triton.jit
def _key(logit, SHIFT: tl.constexpr):
    """The place of a logit among all numbers of its type, in rising order."""
    bits = logit.to(tl.float32).to(tl.int32, bitcast=True) >> SHIFT
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
    sums = tl.zeros([thresholds.shape[0], WIDTH], tl.float32)
    for first in range(begin, end, WIDTH):
        weight, bits, places = _block(weights, first, end, WIDTH)
        amount = weight
        if not BY_MASS:
            amount = (places < end).to(tl.float32)
        sums += tl.where(bits[None, :] >= thresholds[:, None], amount[None, :], 0.0)
    return tl.sum(sums.to(tl.float64), 1)


@triton.jit
def _block(weights, first, end, WIDTH: tl.constexpr):
    """Some weights, 0 behind the last one; their bits; and their places."""
    places = first + tl.arange(0, WIDTH)
    weight = tl.load(weights + places, mask=places < end, other=0.0)
    return weight, weight.to(tl.int32, bitcast=True), places


@triton.jit
def _weight_of(bits):
    return bits.to(tl.float32, bitcast=True).to(tl.float64)


@triton.jit
def _drawn(
    weights, notes, arrived, meeting, part, least, ties, uniform, begin, end, PARTS: tl.constexpr, WIDTH: tl.constexpr
):
    """The token in whose share of what is kept the number falls, -1 if that is in another part.

    Tokens follow one another by their ids.
    """
    above, equal = _kept(weights, least, begin, end, WIDTH)
    found = tl.where(tl.arange(0, NOTES) == 0, above, equal)
    every, _ = exchange(found, notes, arrived, meeting, part, PARTS)
    equals = _note(every, 1)  # [PARTS]
    taken = tl.minimum(tl.maximum(ties - (tl.cumsum(equals, 0) - equals), 0.0), equals)
    masses = _note(every, 0) + taken * _weight_of(least)
    parts = tl.arange(0, PARTS)
    begins = tl.sum(tl.where(parts[None, :] < parts[:, None], masses[None, :], 0.0), 1)
    target = uniform * tl.max(begins + masses, 0)
    chosen = tl.max(tl.where((masses > 0) & (begins <= target), parts, 0), 0)
    token = tl.full([], -1, tl.int32)
    if part == chosen:
        before = tl.sum(tl.where(parts == part, begins, 0.0), 0)
        ties = tl.sum(tl.where(parts == part, taken, 0.0), 0).to(tl.int32)
        token = _drawn_here(weights, least, ties, before, target, begin, end, WIDTH)
    return token


@triton.jit
def _kept(weights, least, begin, end, WIDTH: tl.constexpr):
    """The sum of a part's weights above `least`, and how many equal it."""
    sums = tl.zeros([WIDTH], tl.float64)
    equal = tl.zeros([WIDTH], tl.int32)
    for first in range(begin, end, WIDTH):
        weight, bits, places = _block(weights, first, end, WIDTH)
        sums += tl.where(bits > least, weight, 0.0)
        equal += ((bits == least) & (places < end)).to(tl.int32)
    return tl.sum(sums, 0), tl.sum(equal, 0).to(tl.float64)


@triton.jit
def _drawn_here(weights, least, ties, before, target, begin, end, WIDTH: tl.constexpr):
    """The token of this part: of the last block with something kept before which no more is kept than `target`."""
    found = begin
    mass = before
    ties_left = ties
    for first in range(begin, end, WIDTH):
        weight, bits, _ = _block(weights, first, end, WIDTH)
        equal = tl.minimum(tl.sum((bits == least).to(tl.int32), 0), ties)
        here = tl.sum(tl.where(bits > least, weight, 0.0).to(tl.float64), 0) + equal * _weight_of(least)
        is_found = (here > 0) & (mass <= target)
        found = tl.where(is_found, first, found)
        before = tl.where(is_found, mass, before)
        ties_left = tl.where(is_found, ties, ties_left)
        mass += here
        ties -= equal
    weight, bits, places = _block(weights, found, end, WIDTH)
    is_equal = bits == least
    is_tie = is_equal & (tl.cumsum(is_equal.to(tl.int32), 0) <= ties_left)
    kept = tl.where((bits > least) | is_tie, weight, 0.0)
    is_kept = kept > 0
    sums = tl.cumsum(kept.to(tl.float64), 0)
    # Where they last rise, if rounding keeps all of them from exceeding the target.
    last = tl.min(tl.where(is_kept & (sums >= tl.max(tl.where(is_kept, sums, 0.0), 0)), places, end), 0)
    return tl.min(tl.where(is_kept & (sums > target - before), places, last), 0)

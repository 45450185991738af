"""A random token for each row of logits, in one kernel: temperature, min_p, top_k, top_p, and the draw.

`inference.sampling.draw` says the same in operators of torch, which are about 310 kernels, and the tests hold this
against it; choose.cpp does for a CPU. A program takes a row, whatever the other rows ask for. It reads it once for the
largest logit, once for the weights, fifteen times for each limit, and twice for the token. Nothing is sorted: weights,
from 0 to 1, are in the order of their bits read as integers, and the smallest one that a limit keeps is found two bits
at a time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.decoders.gpu.kernels.choice import WARPS, WIDTH, peak
from inference.decoders.gpu.kernels.overlap import overlap, wait_for_input

SETTINGS = ("temperature", "min_p", "top_k", "top_p", "uniform")


def draw(logits: Tensor, settings: Tensor) -> Tensor:
    """A token for each row of logits [rows, vocabulary], -1 if it is broken, as `most_likely` says.

    Args:
        settings: [rows, len(SETTINGS)], float64. A temperature of 0 takes the largest logit; a top_k of 0 is none.
    """
    rows, vocabulary = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        weights = torch.empty(rows, vocabulary, dtype=torch.float32, device=logits.device)
        size = {"WIDTH": WIDTH, "num_warps": WARPS}
        _draw[(rows,)](logits, settings, weights, tokens, vocabulary, logits.stride(0), **size, **overlap(logits))
    return tokens


@triton.jit
def _draw(logits, settings, weights, tokens, vocabulary, stride, WIDTH: tl.constexpr, OVERLAPS: tl.constexpr):
    wait_for_input(OVERLAPS)
    row = tl.program_id(0).to(tl.int64)
    largest, token = peak(logits + row * stride, vocabulary, WIDTH)
    weights += row * vocabulary
    settings += row * 5
    temperature, min_p = tl.load(settings).to(tl.float32), tl.load(settings + 1).to(tl.float32)
    top_k, top_p = tl.load(settings + 2), tl.load(settings + 3)
    if (token >= 0) & (temperature > 0):
        whole = _weigh(logits + row * stride, weights, largest, temperature, min_p, vocabulary, WIDTH)
        tl.debug_barrier()  # what one thread has stored, another will read
        least, ties = _limited(weights, top_k, top_p, whole, vocabulary, WIDTH)
        token = _drawn(weights, least, ties, tl.load(settings + 4), vocabulary, WIDTH)
    tl.store(tokens + row, token.to(tl.int64))


@triton.jit
def _weigh(logits, weights, largest, temperature, min_p, vocabulary, WIDTH: tl.constexpr):
    """Store the weight of each token, 1 for the most likely one and 0 for those below min_p; return their sum."""
    columns = tl.arange(0, WIDTH)
    sums = tl.zeros([WIDTH], tl.float32)
    highest = tl.div_rn(largest, temperature)
    for first in range(0, vocabulary, WIDTH):
        places = first + columns
        is_token = places < vocabulary
        logit = tl.load(logits + places, mask=is_token, other=float("-inf")).to(tl.float32)
        weight = tl.exp(tl.div_rn(logit, temperature) - highest)
        weight = tl.where(weight < min_p, 0.0, weight)
        sums += weight
        tl.store(weights + places, weight, mask=is_token)
    return tl.sum(sums.to(tl.float64), 0)


@triton.jit
def _limited(weights, top_k, top_p, whole, vocabulary, WIDTH: tl.constexpr):
    """What top_k and then top_p keep: the weights above the first number, and so many of those that equal it."""
    least = tl.full([], 0, tl.int32)  # the bits of a weight
    ties = tl.full([], 0, tl.int32)
    mass = whole
    if (top_k > 0) & (top_k < vocabulary):
        least, above = _cut(weights, top_k, vocabulary, False, WIDTH)
        ties = (top_k - above).to(tl.int32)
        more, _, _ = _amounts(weights, least, 1, vocabulary, True, WIDTH)
        mass = more + ties * _weight_of(least)
    if top_p < 1:
        limit, above = _cut(weights, top_p * mass, vocabulary, True, WIDTH)
        missing = tl.ceil((top_p * mass - above) / tl.maximum(_weight_of(limit), 1e-38))
        enough = tl.minimum(tl.maximum(missing, 1.0), vocabulary).to(tl.int32)
        # A sum that is rounded otherwise must not take in what top_k has left out.
        ties = tl.where(limit > least, enough, tl.where(least > 0, tl.minimum(enough, ties), ties))
        least = tl.maximum(limit, least)
    return least, ties


@triton.jit
def _cut(weights, goal, vocabulary, BY_MASS: tl.constexpr, WIDTH: tl.constexpr):
    """The largest weight, as bits, that with all larger ones reaches the goal, and the amount of the larger ones.

    The amount of weights is their sum, or their number. The weight is 0 if all together do not reach the goal.
    """
    least = tl.full([], 0, tl.int32)
    step = tl.full([], 1 << 28, tl.int32)  # no weight has more than 30 bits
    above = goal * 0.0
    for _ in range(15):
        one, two, three = _amounts(weights, least, step, vocabulary, BY_MASS, WIDTH)
        steps = (one >= goal).to(tl.int32) + (two >= goal).to(tl.int32) + (three >= goal).to(tl.int32)
        above = tl.where(steps == 0, one, tl.where(steps == 1, two, tl.where(steps == 2, three, above)))
        least += steps * step
        step = step >> 2
    return least, above


@triton.jit
def _amounts(weights, least, step, vocabulary, BY_MASS: tl.constexpr, WIDTH: tl.constexpr):
    """The amounts of the weights whose bits are at least one, two and three steps above `least`."""
    one, two, three = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
    for first in range(0, vocabulary, WIDTH):
        weight, bits, _ = _block(weights, first, vocabulary, WIDTH)
        amount = weight
        if not BY_MASS:
            amount = tl.full([WIDTH], 1.0, tl.float32)
        one += tl.where(bits >= least + step, amount, 0.0)
        two += tl.where(bits >= least + 2 * step, amount, 0.0)
        three += tl.where(bits >= least + 3 * step, amount, 0.0)
    return tl.sum(one.to(tl.float64), 0), tl.sum(two.to(tl.float64), 0), tl.sum(three.to(tl.float64), 0)


@triton.jit
def _block(weights, first, vocabulary, WIDTH: tl.constexpr):
    """Some weights, 0 behind the last one; their bits; and their places."""
    places = first + tl.arange(0, WIDTH)
    weight = tl.load(weights + places, mask=places < vocabulary, other=0.0)
    return weight, weight.to(tl.int32, bitcast=True), places


@triton.jit
def _weight_of(bits):
    return bits.to(tl.float32, bitcast=True).to(tl.float64)


@triton.jit
def _drawn(weights, least, ties, uniform, vocabulary, WIDTH: tl.constexpr):
    """The token in whose share of what is kept the number falls; tokens follow one another by their ids."""
    _, _, _, mass = _find(weights, least, ties, float("inf"), vocabulary, WIDTH)
    target = uniform * mass
    first, before, ties_left, _ = _find(weights, least, ties, target, vocabulary, WIDTH)
    weight, bits, places = _block(weights, first, vocabulary, WIDTH)
    is_equal = bits == least
    is_tie = is_equal & (tl.cumsum(is_equal.to(tl.int32), 0) <= ties_left)
    kept = tl.where((bits > least) | is_tie, weight, 0.0)
    is_kept = kept > 0
    sums = tl.cumsum(kept.to(tl.float64), 0)
    # Where they last rise, if rounding keeps all of them from exceeding the target.
    last = tl.min(tl.where(is_kept & (sums >= tl.max(tl.where(is_kept, sums, 0.0), 0)), places, vocabulary), 0)
    return tl.min(tl.where(is_kept & (sums > target - before), places, last), 0)


@triton.jit
def _find(weights, least, ties, target, vocabulary, WIDTH: tl.constexpr):
    """The last block with something kept before which no more is kept than `target`.

    Returns:
        Its first place, what is kept before it, the ties that are left for it, and all that is kept.
    """
    found = tl.full([], 0, tl.int32)
    mass = tl.full([], 0.0, tl.float64)
    before, ties_left = mass, ties
    for first in range(0, vocabulary, WIDTH):
        weight, bits, _ = _block(weights, first, vocabulary, WIDTH)
        equal = tl.minimum(tl.sum((bits == least).to(tl.int32), 0), ties)
        here = tl.sum(tl.where(bits > least, weight, 0.0).to(tl.float64), 0) + equal * _weight_of(least)
        is_found = (here > 0) & (mass <= target)
        found = tl.where(is_found, first, found)
        before = tl.where(is_found, mass, before)
        ties_left = tl.where(is_found, ties, ties_left)
        mass += here
        ties -= equal
    return found, before, ties_left, mass

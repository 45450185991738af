"""A random token for each row of logits, in one kernel: temperature, min_p, top_k, top_p, and the draw.

`inference.sampling.draw` says the same in operators of torch, which are about 310 kernels, and the tests hold this
against it; choose.cpp does for a CPU. A few programs share a row, whatever the other rows ask for. They read it once
for the largest logit, once for the weights, a few times for each limit (limits.py), and once or twice for the token;
after each time they meet (meeting.py).

Nothing is sorted. Each thread reads four neighbouring tokens, of logits as of weights, so that no numbers change
threads while they are added up. The sums of what is kept are noted for each line of 128 tokens, and the token is looked
for in one line.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.decoders.gpu.kernels.choice import peak
from inference.decoders.gpu.kernels.limits import bits_of, block_of, depths, limited, weight_of
from inference.decoders.gpu.kernels.meeting import NOTES, exchange, parts_for, together
from inference.decoders.gpu.kernels.overlap import wait_for_input

SETTINGS = ("temperature", "min_p", "top_k", "top_p", "uniform")
FIRST_SETTING = tl.constexpr(NOTES.value - len(SETTINGS))
"""At the first meeting a program notes two numbers, and then the settings."""
ALIGNED = 64
"""A part begins at a multiple of so many tokens: where memory is read in the widest pieces."""
UNUSED_BITS = {torch.float32: 0, torch.float16: 13, torch.bfloat16: 16}
"""How many of float32's last bits are zero in every number of a type."""
MOST_ALONE = 32_768
"""The longest row that one program reads as fast as two do, which have to meet."""
LINE = tl.constexpr(128)
"""Tokens that are added up together: a warp's four for each thread."""


def draw(logits: Tensor, settings: Tensor, counts: Tensor, parts: int | None = None) -> Tensor:
    """A token for each row of logits [rows, vocabulary], -1 if it is broken, as `most_likely` says.

    Args:
        settings: [rows, len(SETTINGS)], float64. A temperature of 0 takes the largest logit; a top_k of 0 is off. They
            may be in pinned memory of the host, which must not change before the kernel has run.
        counts: [rows], int32, zeros: there a row's programs count how many have come to their meetings.
        parts: how many programs share a row.
    """
    rows, vocabulary = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        parts = parts or parts_of(rows, logits)
        part_size = triton.cdiv(triton.cdiv(vocabulary, parts), ALIGNED) * ALIGNED
        lines = triton.cdiv(part_size, LINE.value)
        weights = torch.empty(rows, vocabulary, dtype=torch.float32, device=logits.device)
        sums = torch.empty(rows, parts, 2, lines, dtype=torch.float32, device=logits.device)
        notes = torch.empty(rows, 2, parts, NOTES.value, dtype=torch.float64, device=logits.device)
        size = {"LINES": triton.next_power_of_2(lines), "PARTS": parts, "SHIFT": UNUSED_BITS[logits.dtype]}
        how = {**size, **tile(part_size), **together(logits, parts)}
        _draw[(rows, parts)](
            logits, settings, counts, weights, sums, notes, tokens, vocabulary, logits.stride(0), part_size, **how
        )
    return tokens


def parts_of(rows: int, logits: Tensor) -> int:
    """How many programs share a row: as many as run at once, but not two where one is as fast."""
    parts = parts_for(rows, logits)
    return 1 if parts == 2 and logits.shape[-1] <= MOST_ALONE else parts


def tile(part_size: int) -> dict[str, int]:
    """In how many warps a program runs, and how many weights it looks at at once.

    There are four for each thread: as many as are read in one piece, of logits as of weights.
    """
    warps = min(16, max(8, int(triton.next_power_of_2(part_size)) // 512))
    return {"WIDTH": warps * LINE.value, "num_warps": warps}


@triton.jit
def _draw(
    logits, settings, counts, weights, sums, notes, tokens, vocabulary, stride, part_size,
    SHIFT: tl.constexpr, LINES: tl.constexpr, PARTS: tl.constexpr, WIDTH: tl.constexpr,
    OVERLAPS: tl.constexpr,
):  # fmt: skip
    wait_for_input(OVERLAPS)
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    begin = part * part_size
    end = tl.minimum(begin + part_size, vocabulary)
    logits += row * stride
    weights += row * vocabulary
    sums += (row * PARTS + part) * 2 * tl.cdiv(part_size, LINE)
    notes += row * 2 * PARTS * NOTES
    settings += row * (NOTES - FIRST_SETTING)
    arrived = counts + row
    largest, token, every, meeting = _first_meeting(
        logits, settings, notes, arrived, part, begin, end, vocabulary, PARTS, WIDTH
    )
    temperature, min_p = _setting(every, 0).to(tl.float32), _setting(every, 1).to(tl.float32)
    top_k, top_p, uniform = _setting(every, 2), _setting(every, 3), _setting(every, 4)
    if (token >= 0) & (temperature > 0):
        moments = _weigh(logits, weights, largest, temperature, min_p, begin, end, WIDTH)
        tl.debug_barrier()  # what one thread has stored, another will read
        least, ties, goal, meeting = limited(
            weights, notes, arrived, meeting, part, moments, top_k, top_p, temperature, largest, begin, end,
            vocabulary, SHIFT, PARTS, WIDTH,
        )  # fmt: skip
        token = _drawn(
            weights, sums, notes, arrived, meeting, part, least, ties, goal, uniform, begin, end, part_size,
            LINES, PARTS, WIDTH,
        )  # fmt: skip
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
    most, place = peak(logits, begin, end, WIDTH)
    own = tl.where(number == 0, most.to(tl.float64), own)
    own = tl.where(number == 1, place, own)
    every, meeting = exchange(own, notes, arrived, tl.full([], 0, tl.int32), part, PARTS)
    peaks, places = _note(every, 0), _note(every, 1)
    largest = tl.max(peaks, 0)
    token = tl.min(tl.where(peaks == largest, places, vocabulary), 0).to(tl.int32)
    return largest.to(tl.float32), tl.where(tl.abs(largest) == float("inf"), -1, token), every, meeting


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
    """Store the weight of each token, 1 for the most likely one and 0 for those below min_p.

    Returns:
        Their moments [NOTES], as `limited` takes them.
    """
    columns = tl.arange(0, WIDTH)
    zeroth, first, second = _zeros(WIDTH), _zeros(WIDTH), _zeros(WIDTH)
    for start in range(begin, end, WIDTH):
        places = start + columns
        is_token = places < end
        logit = tl.load(logits + places, mask=is_token, other=float("-inf"))
        depth = depths(logit.to(tl.float32), temperature, largest)
        weight = tl.exp(depth)
        is_kept = weight >= min_p  # not where the logit is -inf
        weight = tl.where(is_kept, weight, 0.0)
        tl.store(weights + places, weight, mask=is_token)
        depth = tl.where(is_kept, depth, 0.0)
        zeroth += weight
        first += weight * depth
        second += weight * depth * depth
    number = tl.arange(0, NOTES)
    moments = tl.where(number == 0, tl.sum(zeroth, 0), 0.0)
    moments = tl.where(number == 1, tl.sum(first, 0), moments)
    return tl.where(number == 2, tl.sum(second, 0), moments).to(tl.float64)


@triton.jit
def _zeros(WIDTH: tl.constexpr):
    return tl.zeros([WIDTH], tl.float32)


@triton.jit
def _drawn(
    weights, sums, notes, arrived, meeting, part, least, ties, goal, uniform, begin, end, part_size,
    LINES: tl.constexpr, PARTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The token in whose share of what is kept the number falls, -1 if that is in another part.

    Tokens follow one another by their ids.
    """
    aboves, equals = _kept(weights, sums, least, begin, end, part_size, LINES, WIDTH)  # [LINES]
    found = tl.where(tl.arange(0, NOTES) == 0, tl.sum(aboves, 0), tl.sum(equals, 0))
    every, _ = exchange(found, notes, arrived, meeting, part, PARTS)
    all_aboves, all_equals = _note(every, 0), _note(every, 1)  # [PARTS]
    above = tl.sum(all_aboves, 0)
    missing = tl.ceil((goal - above) / tl.maximum(weight_of(least), 1e-38))
    ties = tl.minimum(tl.maximum(missing, tl.where(above > 0, 0.0, 1.0)), ties)
    taken = _taken(ties, all_equals)
    masses = all_aboves + taken * weight_of(least)
    parts = tl.arange(0, PARTS)
    begins = tl.sum(tl.where(parts[None, :] < parts[:, None], masses[None, :], 0.0), 1)
    target = uniform * tl.max(begins + masses, 0)
    chosen = tl.max(tl.where((masses > 0) & (begins <= target), parts, 0), 0)
    token = tl.full([], -1, tl.int32)
    if part == chosen:
        before = tl.sum(tl.where(parts == part, begins, 0.0), 0)
        ties = tl.sum(tl.where(parts == part, taken, 0.0), 0)
        token = _drawn_here(weights, aboves, equals, least, ties, before, target, begin, end, LINES)
    return token


@triton.jit
def _taken(ties, equals):
    """How many of some equal weights are kept, if in all so many are."""
    return tl.minimum(tl.maximum(ties - (tl.cumsum(equals, 0) - equals), 0.0), equals)


@triton.jit
def _kept(weights, sums, least, begin, end, part_size, LINES: tl.constexpr, WIDTH: tl.constexpr):
    """For each line of a part the sum of its weights above `least`, and how many equal it, both [LINES]."""
    lines = tl.cdiv(part_size, LINE)
    shape: tl.constexpr = [WIDTH // LINE, LINE]
    for first in range(begin, end, WIDTH):
        weight, places = block_of(weights, first, end, WIDTH)
        bits = bits_of(weight)
        above = tl.reshape(tl.where(bits > least, weight, 0.0), shape)
        equal = tl.reshape(((bits == least) & (places < end)).to(tl.float32), shape)
        line = (first - begin) // LINE + tl.arange(0, WIDTH // LINE)
        tl.store(sums + line, tl.sum(above, 1), mask=line < lines)
        tl.store(sums + lines + line, tl.sum(equal, 1), mask=line < lines)
    tl.debug_barrier()  # what one thread has stored, another will read
    line = tl.arange(0, LINES)
    is_line = line < tl.cdiv(tl.maximum(end - begin, 0), LINE)
    aboves = tl.load(sums + line, mask=is_line, other=0.0)
    return aboves.to(tl.float64), tl.load(sums + lines + line, mask=is_line, other=0.0).to(tl.float64)


@triton.jit
def _drawn_here(weights, aboves, equals, least, ties, before, target, begin, end, LINES: tl.constexpr):
    """The token of this part: of the first line at whose end more is kept than `target`; if there is none, of the last
    line with something kept.
    """
    number = tl.arange(0, LINES)
    taken = _taken(ties, equals)
    masses = aboves + taken * weight_of(least)
    ends = before + tl.cumsum(masses, 0)
    has_some = masses > 0
    last = tl.max(tl.where(has_some, number, 0), 0)
    line = tl.min(tl.where(has_some & (ends > target), number, last), 0)
    before = tl.max(tl.where(number < line, ends, before), 0)
    mass = tl.sum(tl.where(number == line, masses, 0.0), 0)
    weight, places = block_of(weights, begin + line * LINE, end, LINE)
    bits = bits_of(weight)
    is_equal = bits == least
    ties = tl.sum(tl.where(number == line, taken, 0.0), 0)
    is_tie = is_equal & (tl.cumsum(is_equal.to(tl.int32), 0) <= ties)
    kept = tl.where((bits > least) | is_tie, weight, 0.0)
    is_kept = kept > 0
    sums = tl.cumsum(kept.to(tl.float64), 0)
    whole = tl.max(tl.where(is_kept, sums, 0.0), 0)
    # The line's mass was added up in float32.
    target = (target - before) / mass * whole
    # Where they last rise, if rounding keeps all of them from exceeding the target.
    last = tl.min(tl.where(is_kept & (sums >= whole), places, end), 0)
    return tl.min(tl.where(is_kept & (sums > target), places, last), 0)

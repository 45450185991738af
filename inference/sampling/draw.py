"""Changes logits and chooses tokens with operators of torch, on any device, for all rows at once.

On a CPU, choose.cpp does the same several times faster. On a GPU nothing here waits, except for a step's tokens.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.sampling.adjustments import adjust
from inference.scheduling.sample_args import SampleArgs
from inference.transfer import to_device

LOOKS = (256, 4096)
"""How many of the most likely tokens are sorted first, and then if those were too few. Sorting a whole vocabulary, the
last resort, takes a CPU longer than the rest of a step."""
BLOCK = 256
"""Tokens whose probabilities are added up in float32. The sums of blocks are added up in float64."""

DeviceChooser = Callable[[Tensor, Sequence[SampleArgs]], Tensor]
"""`choose_on_device`, or the same in one kernel of Triton."""


def choose_on_device(logits: Tensor, rows: Sequence[SampleArgs]) -> Tensor:
    """Return a token id for each row, as a tensor [rows] on the logits' device: -1 where the row is broken.

    The host does not wait. Logits may be overwritten.
    """
    largest, greedy = logits.max(-1)  # for half precision on a CPU several times faster than argmax; NaN if one is
    usable = largest.isfinite()
    if any(row.changes_logits for row in rows):
        logits = logits.float().contiguous()
        adjust(logits, rows)
        largest, greedy = logits.max(-1)
        usable &= largest.isfinite()  # checked before and after the changes: a mask may hide the model's NaN
    chosen = greedy
    if drawing := [number for number, row in enumerate(rows) if not row.is_greedy]:
        numbers = to_device(torch.tensor(drawing), logits.device)
        drawn = _draw(logits[numbers].float(), [rows[number] for number in drawing])
        chosen = greedy.index_copy(0, numbers, drawn)
    return torch.where(usable, chosen, -1)


def choose(
    logits: Tensor, rows: Sequence[SampleArgs], choose_on_device: DeviceChooser = choose_on_device
) -> list[int | None]:
    """Return a token id for each row of `logits` [rows, vocabulary], None where the row is broken.

    Logits may be overwritten.
    """
    # The step's one wait for the device.
    tokens = choose_on_device(logits, rows).tolist()
    return [None if token_id < 0 else int(token_id) for token_id in tokens]


def _draw(logits: Tensor, rows: Sequence[SampleArgs]) -> Tensor:
    """A random token id for each row of `logits` [rows, vocabulary], float32."""
    vocabulary = logits.shape[-1]

    def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return to_device(torch.tensor(values, dtype=dtype), logits.device)[:, None]

    probabilities = (logits / column([row.temperature for row in rows], torch.float32)).softmax(-1)
    if any(row.min_p for row in rows):
        least = column([row.min_p for row in rows], torch.float32) * probabilities.amax(-1, keepdim=True)
        probabilities.masked_fill_(probabilities < least, 0.0)
    if truncated := [number for number, row in enumerate(rows) if row.is_truncated]:
        numbers = to_device(torch.tensor(truncated), logits.device)
        probabilities[numbers] = _truncate(
            probabilities[numbers],
            column([min(rows[number].top_k or vocabulary, vocabulary) for number in truncated], torch.int64),
            column([rows[number].top_p for number in truncated], torch.float64),
        )
    return _invert(probabilities, column([row.uniform for row in rows], torch.float64))


def _invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Draw by inversion: the first tokens at which the sum of `probabilities` [rows, vocabulary] exceeds `uniform`."""
    vocabulary = probabilities.shape[-1]
    padded = F.pad(probabilities, (0, -vocabulary % BLOCK))
    blocks = padded.view(len(padded), -1, BLOCK)
    mass = blocks.sum(-1).cumsum(-1, dtype=torch.float64)  # [rows, blocks]
    target = uniform * mass[:, -1:]
    block = _first_above(mass, target)
    before = F.pad(mass, (1, 0)).gather(-1, block)
    inside = blocks.gather(1, block[..., None].expand(-1, -1, BLOCK))[:, 0]  # [rows, BLOCK]
    return (block * BLOCK + _first_above(inside.cumsum(-1, dtype=torch.float64), target - before))[:, 0]


def _first_above(mass: Tensor, target: Tensor) -> Tensor:
    """The first index at which `mass` [rows, n], rising, exceeds `target` [rows, 1]; if none, that of the last rise."""
    last_rise = torch.searchsorted(mass, mass[:, -1:].contiguous())
    place = torch.minimum(torch.searchsorted(mass, target, right=True), last_rise)
    return place.clamp(max=mass.shape[-1] - 1)  # a broken row's may be anywhere


def _truncate(probabilities: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Zero the probabilities [rows, vocabulary] of all but the most likely tokens, as `top_k`, `top_p` [rows, 1] say.

    The tokens stay in their places: a row's draw must not depend on whether its neighbours are truncated. Of equally
    likely tokens the lower ids are kept.
    """
    vocabulary = probabilities.shape[-1]
    whole = probabilities.sum(-1, keepdim=True, dtype=torch.float64)
    # A GPU sorts quickly, and a look at its result would make the host wait.
    looks = LOOKS if probabilities.device.type == "cpu" else ()
    for count in (*(look for look in looks if look < vocabulary), vocabulary):
        most_likely = probabilities.topk(count).values.double()  # [rows, count], falling
        kept = torch.arange(count, device=probabilities.device) < top_k
        mass = (most_likely * kept).cumsum(-1)
        kept_mass = torch.where(top_k < vocabulary, mass[:, -1:], whole)
        kept &= (mass - most_likely < top_p * kept_mass) | (top_p >= 1)
        number = kept.sum(-1, keepdim=True).clamp(min=1)  # 0 in a broken row
        more_may_stay = (top_k > count) & ((top_k < vocabulary) | (number == count))
        if count == vocabulary or not more_may_stay.any():
            break
    least = most_likely.gather(-1, number - 1)
    above, level = probabilities > least, probabilities == least
    room = number - above.sum(-1, keepdim=True)
    return torch.where(above | (level & (level.cumsum(-1) <= room)), probabilities, 0.0)

"""Draws the next token of every row of a batch at once.

Each request brings its own random number, so a seed gives the same draws in any company. (The draws are the same;
the logits are the same to rounding: a batch of another size may add its products in another order.)

What goes to a GPU goes without waiting; the only wait of a step is for its tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GREEDY_BELOW = 1e-5
"""Temperatures under this would overflow the logits; they mean greedy."""
LOOKS = (256, 4096)
"""How many of the likeliest tokens are looked at first: nearly always enough, and sorting a whole vocabulary takes a
CPU longer than the rest of a step."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How to draw one row's token. `uniform` is the request's random number for it, in [0, 1)."""

    temperature: float
    top_p: float
    top_k: int
    uniform: float

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def is_truncated(self) -> bool:
        return not self.is_greedy and (self.top_p < 1 or self.top_k > 0)


def sample(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """Return a token id for each row of `logits` [rows, vocabulary], drawn as `draws` [rows] says."""
    greedy = logits.max(-1).indices  # for half precision on a CPU several times faster than argmax
    if all(draw.is_greedy for draw in draws):
        return _to_list(greedy)
    vocabulary = logits.shape[-1]

    def on_device(values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype).to(logits.device, non_blocking=True)

    def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return on_device(values, dtype)[:, None]

    scaled = logits.float() / column([1 if draw.is_greedy else draw.temperature for draw in draws], torch.float32)
    probabilities = scaled.softmax(-1, dtype=torch.float64)
    if truncated := [row for row, draw in enumerate(draws) if draw.is_truncated]:
        rows = on_device(truncated, torch.int64)
        probabilities[rows] = _truncate(
            probabilities[rows],
            column([min(draws[row].top_k or vocabulary, vocabulary) for row in truncated], torch.int64),
            column([draws[row].top_p for row in truncated], torch.float64),
        )
    mass = probabilities.cumsum(-1)
    target = column([draw.uniform for draw in draws], torch.float64) * mass[:, -1:]
    chosen = torch.searchsorted(mass, target, right=True).clamp(max=vocabulary - 1)
    is_greedy = on_device([draw.is_greedy for draw in draws], torch.bool)
    return _to_list(torch.where(is_greedy, greedy, chosen[:, 0]))


def _truncate(probabilities: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Zero the probabilities [rows, vocabulary] of all but the likeliest tokens, as `top_k`, `top_p` [rows, 1] say.

    The tokens stay in their places: a row's draw must not depend on whether its neighbours are truncated. Of equally
    likely tokens the lower ids are kept.
    """
    vocabulary = probabilities.shape[-1]
    looks = LOOKS if probabilities.device.type == "cpu" else ()  # a GPU sorts quickly, and would have to be waited for
    for count in (*(look for look in looks if look < vocabulary), vocabulary):
        likeliest = probabilities.topk(count).values  # [rows, count], falling
        kept = torch.arange(count, device=probabilities.device) < top_k
        mass = (likeliest * kept).cumsum(-1)
        whole = torch.where(top_k < vocabulary, mass[:, -1:], 1.0)
        kept &= (mass - likeliest < top_p * whole) | (top_p >= 1)
        number = kept.sum(-1, keepdim=True)
        more_may_stay = (top_k > count) & ((top_k < vocabulary) | (number == count))
        if count == vocabulary or not more_may_stay.any():
            break
    least = likeliest.gather(-1, number - 1)
    above, level = probabilities > least, probabilities == least
    room = number - above.sum(-1, keepdim=True)
    return torch.where(above | (level & (level.cumsum(-1) <= room)), probabilities, 0.0)


def _to_list(token_ids: Tensor) -> list[int]:
    """The step's one wait for the device."""
    return [int(token_id) for token_id in token_ids.tolist()]

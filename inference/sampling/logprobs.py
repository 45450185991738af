"""Log probabilities under the raw logits: before penalties, temperature and masks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from inference.scheduling.sample_args import RowLogprobs, SampleArgs
from interface.requests import MAX_LOGPROBS

ROWS_AT_ONCE = 16
"""Prompt tokens whose log probabilities are held at the same time."""
BLOCK = 128
"""Tokens of a block, whose maximum is computed first."""


class RawLogits:
    """A copy of the logits of the rows that ask for log probabilities, kept until their tokens are chosen."""

    def __init__(self, logits: Tensor, rows: Sequence[SampleArgs]) -> None:
        self._counts = {number: row.logprobs for number, row in enumerate(rows) if row.logprobs is not None}
        # Picking rows copies them, which takes as long as their log probabilities: not if it is all of them.
        wanted = logits if len(self._counts) in (0, len(rows)) else logits[list(self._counts)]
        self._logprobs = wanted.log_softmax(-1, dtype=torch.float32) if self._counts else wanted

    def report(self, token_ids: Sequence[int]) -> dict[int, RowLogprobs]:
        """Return the log probabilities by row, for the rows that ask for them."""
        if not self._counts:
            return {}
        chosen = [token_ids[number] for number in self._counts]
        # The same number of alternatives for any row: equal ones must come in the same order whatever others ask for.
        reports = logprobs_of(self._logprobs, chosen, MAX_LOGPROBS if any(self._counts.values()) else 0)
        return {
            number: RowLogprobs(report.chosen, report.top[:count])
            for (number, count), report in zip(self._counts.items(), reports, strict=True)
        }


def logprobs_of(logprobs: Tensor, token_ids: Sequence[int], count: int) -> list[RowLogprobs]:
    """Return the log probabilities of `token_ids`, and the `count` largest, from `logprobs` [tokens, vocabulary]."""
    ids = torch.tensor(token_ids, device=logprobs.device)
    chosen = logprobs.gather(-1, ids[:, None])[:, 0].tolist()
    values, places = largest(logprobs, min(count, logprobs.shape[-1]))
    tops = [tuple(zip(*pair, strict=True)) for pair in zip(places.tolist(), values.tolist(), strict=True)]
    return [RowLogprobs(*pair) for pair in zip(chosen, tops, strict=True)]


def largest(numbers: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest numbers of each row of `numbers` [rows, size], in falling order, and their places.

    The same as `topk`, which would take longer than everything else that log probabilities need. They can only be in
    the `count` blocks with the largest maxima, or behind the last whole block.
    """
    rows, size = numbers.shape
    whole = size // BLOCK * BLOCK
    maxima = torch.unflatten(numbers[:, :whole], -1, (whole // BLOCK, BLOCK)).amax(-1)
    blocks = maxima.topk(min(count, maxima.shape[-1])).indices  # [rows, blocks]
    within = (blocks[..., None] * BLOCK + torch.arange(BLOCK, device=numbers.device)).flatten(1)
    places = torch.cat([within, torch.arange(whole, size, device=numbers.device).expand(rows, -1)], dim=-1)
    values, at = numbers.gather(-1, places).topk(count)
    return values, places.gather(-1, at)


def prompt_logprobs(logits: Tensor, next_ids: Sequence[int], count: int) -> list[RowLogprobs]:
    """The log probability of the token that follows each of some prompt tokens, and the `count` most likely ones.

    Args:
        logits: [tokens, vocabulary]. A few rows at a time are made log probabilities, so little memory is taken.
    """
    reports: list[RowLogprobs] = []
    for first in range(0, len(next_ids), ROWS_AT_ONCE):
        rows = logits[first : first + ROWS_AT_ONCE].log_softmax(-1, dtype=torch.float32)
        reports += logprobs_of(rows, next_ids[first : first + ROWS_AT_ONCE], count)
    return reports

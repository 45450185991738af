"""Log probabilities under the raw logits: before penalties, temperature and masks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from inference.scheduling.sample_args import RowLogprobs, SampleArgs
from interface.requests import MAX_LOGPROBS

ROWS_AT_ONCE = 16
"""Prompt tokens whose log probabilities are held at the same time."""
BLOCK = 128
"""Tokens of a block, whose maximum is computed first."""

TopLogits = Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]
"""Finds the largest of float32 logits [rows, vocabulary], so that log probabilities are made only of those reported.

Returns for each row the largest logit and the logarithm of the sum of e^(logit - largest) [rows, 2], as many of the
largest logits as are wanted [rows, count], and their ids."""


class RawLogits:
    """The logits of the rows that ask for log probabilities, kept until their tokens are chosen."""

    def __init__(self, logits: Tensor, rows: Sequence[SampleArgs], top_logits: TopLogits | None) -> None:
        self._counts = {number: row.logprobs for number, row in enumerate(rows) if row.logprobs is not None}
        if self._counts:
            # As many for any row: equal ones must come in the same order whatever others ask for.
            count = MAX_LOGPROBS if any(self._counts.values()) else 0
            self._scores = Scores(self._picked(logits, rows, is_read_later=top_logits is not None), count, top_logits)

    def _picked(self, logits: Tensor, rows: Sequence[SampleArgs], is_read_later: bool) -> Tensor:
        """The rows' logits, not copied if possible: that takes as long as their log probabilities."""
        if len(self._counts) < len(rows):
            return logits[list(self._counts)]
        will_be_overwritten = any(row.changes_logits for row in rows)
        return logits.clone() if is_read_later and will_be_overwritten else logits

    def report(self, token_ids: Sequence[int]) -> dict[int, RowLogprobs]:
        """Return the log probabilities by row, for the rows that ask for them."""
        if not self._counts:
            return {}
        reports = self._scores.report([token_ids[number] for number in self._counts])
        return {
            number: RowLogprobs(report.chosen, report.top[:count])
            for (number, count), report in zip(self._counts.items(), reports, strict=True)
        }


class Scores:
    """The log probabilities of `logits` [rows, vocabulary], of which the `count` largest of each row are reported."""

    def __init__(self, logits: Tensor, count: int, top_logits: TopLogits | None) -> None:
        count = min(count, logits.shape[-1])
        self._normalizers: Tensor | None = None
        if top_logits is None:
            self._numbers = logits.log_softmax(-1, dtype=torch.float32)
            self._top, self._ids = find_top(self._numbers, count)
        else:
            self._numbers = logits.float().contiguous()
            self._normalizers, self._top, self._ids = top_logits(self._numbers, count)

    def report(self, token_ids: Sequence[int]) -> list[RowLogprobs]:
        """Return the log probability of one token of each row, and the largest ones."""
        chosen = self._numbers.gather(-1, torch.tensor(token_ids, device=self._numbers.device)[:, None])
        numbers = torch.cat([chosen, self._top], dim=-1)
        if self._normalizers is not None:
            numbers = numbers - self._normalizers[:, :1] - self._normalizers[:, 1:]
        return [
            RowLogprobs(of_chosen, tuple(zip(ids, of_top, strict=True)))
            for ids, (of_chosen, *of_top) in zip(self._ids.tolist(), numbers.tolist(), strict=True)
        ]


def find_top(numbers: Tensor, count: int) -> tuple[Tensor, Tensor]:
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


def prompt_logprobs(
    logits: Tensor, next_ids: Sequence[int], count: int, top_logits: TopLogits | None
) -> list[RowLogprobs]:
    """The log probability of the token that follows each of some prompt tokens, and the `count` most likely ones.

    Args:
        logits: [tokens, vocabulary]. A few rows at a time are made log probabilities, so little memory is taken.
    """
    reports: list[RowLogprobs] = []
    for first in range(0, len(next_ids), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        reports += Scores(logits[rows], count, top_logits).report(next_ids[rows])
    return reports

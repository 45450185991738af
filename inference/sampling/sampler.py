"""Chooses the next token of every row of a batch at once.

Each sequence has its own random number, and each row is computed independently: other rows and their settings do not
change a bit of it. A row from which no token can be chosen, because its logits are NaN or because nothing is allowed,
is reported as broken, without an effect on other rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.sampling.choose import Chooser, top_logits_of
from inference.sampling.draw import choose
from inference.sampling.logprobs import RawLogits
from inference.scheduling.sample_args import RowLogprobs, SampleArgs


@dataclass(frozen=True, slots=True)
class Sampled:
    """A step's tokens, one for each row."""

    token_ids: list[int]
    """0 where the row is broken."""
    logprobs: Mapping[int, RowLogprobs]
    """The log probabilities by row, for rows that ask for them and are not broken."""
    broken: frozenset[int]
    """Rows whose logits are NaN, infinite, or all banned."""
    broken_chunks: frozenset[int] = frozenset()
    """Chunks of the schedule that left NaN or infinite keys in the cache."""


@torch.inference_mode()
def sample(logits: Tensor, rows: Sequence[SampleArgs], choose: Chooser = choose) -> Sampled:
    """Choose a token for each row of `logits` [rows, vocabulary], which may be overwritten, as `rows` say."""
    if not rows:
        return Sampled([], {}, frozenset())
    raw = RawLogits(logits, rows, top_logits_of(choose))
    chosen = choose(logits, rows)
    broken = frozenset(number for number, token_id in enumerate(chosen) if token_id is None)
    token_ids = [token_id if token_id is not None else 0 for token_id in chosen]
    reports = raw.report(token_ids)
    return Sampled(token_ids, {number: reports[number] for number in reports.keys() - broken}, broken)

"""Decode steps of `KernelDecoder` as CUDA graphs: one for each of a few numbers of rows, whatever the texts' lengths.

The kernels read each row's slot and position on the GPU, so nothing in a graph depends on them. At its end a step moves
its rows on by one position. So the step after it needs only its tokens, which the GPU has before the host: `next_step`
begins it at once (see `inference.decoders.ahead`).
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from inference.cache.batch import Batch
from inference.decoders.cuda_graphs import Replaying, Work
from inference.decoders.decoder import Decoder

NO_SLOT = -1


@runtime_checkable
class Steps(Decoder, Protocol):
    """A decoder whose steps `GraphedSteps` can capture: `KernelDecoder`."""

    def step(self, token_ids: Tensor, positions: Tensor, slots: Tensor) -> Tensor: ...


class GraphedSteps(Replaying):
    """Steps of as many rows as there are, or a few more. `capture` turns a function into its replay."""

    def __init__(self, decoder: Steps, slots: int, device: torch.device, capture: Callable[[Work], Work]) -> None:
        super().__init__(decoder)
        self._steps = decoder
        self._inputs = torch.zeros(3, slots, dtype=torch.int64, device=device)  # tokens, positions, slots
        self._inputs[2] = NO_SLOT
        self._order = self._inputs[2, :0]  # the last step's rows in the order of its logits
        self._rows = 0
        self._replays = {rows: capture(self._work(rows)) for rows in reversed(row_counts(slots))}

    def _replay(self, batch: Batch) -> Tensor:
        count = len(batch.slots)
        self._rows = min(rows for rows in self._replays if rows >= count)
        self._inputs[0, :count] = batch.token_ids[0]
        self._inputs[1, :count] = batch.positions[0]
        self._inputs[2, :count] = batch.slots
        self._inputs[1, count : self._rows] = 0
        self._inputs[2, count : self._rows] = NO_SLOT
        self._order = batch.sampled
        return self._replays[self._rows]()[self._order]

    def next_step(self, tokens: Tensor) -> Tensor:
        """The logits of the step after the last `forward` or `next_step`, in the same order; `tokens` are its tokens.

        A token of -1 is none; its row is computed, and nothing will ask for it. The next step may write over the logits
        of a single row.
        """
        self._inputs[0].index_copy_(0, self._order, tokens)
        logits = self._replays[self._rows]()
        return logits if self._rows == 1 else logits[self._order]

    def _work(self, rows: int) -> Work:
        token_ids, positions, slots = self._inputs[:, :rows]

        def work() -> Tensor:
            logits = self._steps.step(token_ids, positions, slots)
            positions.add_(1)
            return logits

        return work


def row_counts(slots: int) -> list[int]:
    """Powers of two, multiples of 32 from there on, and all: no step computes twice as many rows as it needs."""
    counts = {slots} | {count for count in (1, 2, 4, 8, 16) if count < slots} | set(range(32, slots, 32))
    return sorted(counts)

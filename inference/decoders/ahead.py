"""Begins the next decode step on a GPU before the host has read this one's tokens.

Reading the tokens, turning them into text, scheduling and launching take the host about as long as a small model's step
takes the GPU, which would be idle meanwhile. But the next step's logits depend on none of that. So as soon as the
tokens are chosen, on the GPU, the step after them is put in its queue: the same sequences, one position further. When
the host then asks for exactly that step, its logits are there or on their way. When it asks for another one, because a
sequence has ended or joined, the work was in vain, and what it wrote to the cache is overwritten.

Masks, penalties and temperatures stay exact: they are applied to the logits, once the host asks for them.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from inference.cache.kv_cache import KVCache
from inference.decoders.decoder import Decoder
from inference.sampling.draw import DeviceChooser
from inference.scheduling.sample_args import SampleArgs
from inference.scheduling.scheduler import Schedule

Place = tuple[int, int]
"""A slot, and the position in it of the token that a step computes."""
Row = tuple[int, int, int]
"""A slot, a position in it, and the token there."""


@runtime_checkable
class AheadDecoder(Decoder, Protocol):
    """A decoder that can compute the next step from tokens that the host has not read."""

    def next_step(self, tokens: Tensor) -> Tensor:
        """Return the logits of the step after the last one, in the same order; a token of -1 marks a broken row."""


class Ahead:
    """Holds the step that was begun ahead, if one was.

    Args:
        choose_on_device: chooses tokens without waiting for them.
        device: where they are.
    """

    def __init__(
        self, decoder: AheadDecoder, cache: KVCache, choose_on_device: DeviceChooser, device: torch.device
    ) -> None:
        self._decoder = decoder
        self._choose_on_device = choose_on_device
        self._cache = cache
        self._places: list[Place] = []  # of the running step, unless it has a prefill
        self._fetching = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._begun: tuple[list[Row], Tensor] | None = None  # the rows of the step that was begun ahead, its logits

    def record(self, schedule: Schedule) -> None:
        """Note the schedule that is computed now; a step that was begun ahead is dropped."""
        self._places = [] if schedule.chunks else [(slot, position) for slot, position, _ in _rows(schedule)]
        self._begun = None

    def claim(self, schedule: Schedule) -> Tensor | None:
        """Return the logits of a schedule if it is the step that was begun ahead, else None."""
        begun, self._begun = self._begun, None
        if begun is None or schedule.chunks or schedule.copies or begun[0] != _rows(schedule):
            return None
        self._places = [(slot, position) for slot, position, _ in begun[0]]
        return begun[1]

    def choose(self, logits: Tensor, rows: Sequence[SampleArgs]) -> list[int | None]:
        """Choose a token for each row, as `draw.choose` does, and begin the next step before they are read."""
        tokens = self._choose_on_device(logits, rows)
        fetched = _Fetched(tokens, self._fetching)
        places = [(slot, position + 1) for slot, position in self._places]
        is_foreseen = bool(places) and all(position < self._cache.context for _, position in places)
        following = self._begin(places, tokens) if is_foreseen else None
        chosen = fetched.wait()
        if following is not None:
            coming = [(*place, token) for place, token in zip(places, chosen, strict=True)]
            self._begun = coming, following
        return [None if token < 0 else token for token in chosen]

    def _begin(self, places: Sequence[Place], tokens: Tensor) -> Tensor:
        for slot, position in places:
            self._cache.storage.reserve(slot, position, position + 1)
        return self._decoder.next_step(tokens)


class _Fetched:
    """Tokens that are being copied to the host, which waits for them, but not for the work queued after them.

    On a GPU they are copied on a stream of their own, so that this work need not wait for the copy either.
    """

    def __init__(self, tokens: Tensor, stream: torch.cuda.Stream | None) -> None:
        self._tokens = tokens  # kept until they have been copied
        self._copy = tokens
        if stream is not None:
            self._copy = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._copy.copy_(tokens, non_blocking=True)
        self._stream = stream

    def wait(self) -> list[int]:
        if self._stream is not None:
            self._stream.synchronize()
        return [int(token) for token in self._copy.tolist()]


def _rows(schedule: Schedule) -> list[Row]:
    rows = []
    for sequence in schedule.decoding:
        rows.append((sequence.slot, sequence.cached_tokens, sequence.output_ids[-1]))
    return rows

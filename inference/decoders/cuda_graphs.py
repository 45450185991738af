"""Decode steps as CUDA graphs: one call launches a step's thousand kernels, instead of a call for each.

A graph does the same work at the same addresses each time it is replayed. So a step is laid out with a row for every
slot, in the slots' order, used or not, and reads the cache up to one of a few lengths: one graph for each length, all
made before the server is ready. An unused row writes to a spare position behind the context. Steps with a prefill run
as they are, because they are long enough for the launches not to matter.

Source: "CUDA Graphs" in torch's CUDA semantics.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from inference.cache.batch import Batch, Run
from inference.cache.kv_cache import KVCache
from inference.decoders.decoder import Decoder

SHORTEST = 256
WARM_UPS = 3

Work = Callable[[], Tensor]


class Replaying:
    """A decoder that replays graphs for steps without prefill."""

    has_same_bits = False

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    @property
    def name(self) -> str:
        return f"{self._decoder.name}, decode steps as CUDA graphs"

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits [sampled, vocabulary], and write the new keys and values to the cache."""
        return self._decoder.forward(batch) if batch.segments else self._replay(batch)

    def _replay(self, batch: Batch) -> Tensor:
        """The logits of a batch without prefill."""
        raise NotImplementedError


class GraphedDecoder(Replaying):
    """Steps laid out with a row for every slot; see above.

    `capture` turns a function into its replay. It is a `Capture`, except in tests without a GPU.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, device: torch.device, capture: Callable[[Work], Work]) -> None:
        super().__init__(decoder)
        self._cache = cache
        self._spare = cache.row_length - 1
        self._token_ids = torch.zeros(1, cache.slots, dtype=torch.int64, device=device)
        self._positions = torch.zeros(1, cache.slots, dtype=torch.int64, device=device)
        self._cache_positions = torch.full((cache.slots,), self._spare, device=device)
        self._slots = torch.arange(cache.slots, device=device)
        self._replays = {length: capture(self._work(length)) for length in self._lengths()}

    def _replay(self, batch: Batch) -> Tensor:
        longest = max(run.length for run in batch.runs)
        self._token_ids[0].index_copy_(0, batch.slots, batch.token_ids[0])
        self._positions[0].index_copy_(0, batch.slots, batch.positions[0])
        self._cache_positions.fill_(self._spare)
        self._cache_positions.index_copy_(0, batch.slots, batch.cache_positions)
        logits = self._replays[min(length for length in self._replays if length >= longest)]()
        return logits[batch.slots[batch.sampled]]

    def _lengths(self) -> list[int]:
        """Powers of two, and the whole cache: no step reads more than twice what it needs."""
        lengths = [SHORTEST]
        while lengths[-1] * 2 < self._cache.row_length:
            lengths.append(lengths[-1] * 2)
        return [length for length in lengths if length < self._cache.row_length] + [self._cache.row_length]

    def _work(self, length: int) -> Work:
        def work() -> Tensor:
            # A batch of its own each time: the masks that it keeps must be made within the graph.
            return self._decoder.forward(
                Batch(
                    cache=self._cache,
                    token_ids=self._token_ids,
                    positions=self._positions,
                    slots=self._slots,
                    cache_positions=self._cache_positions,
                    runs=[Run(0, 0, self._cache.slots, length)],
                    segments=[],
                    sampled=self._slots,
                )
            )

        return work


def has_graphs(device: torch.device) -> bool:
    return device.type == "cuda"


class Capture:
    """Makes CUDA graphs that share memory: a replay's result must be copied before any other replay."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        return captured(work, self._pool)


def captured(work: Work, pool: Any) -> Work:
    """Return the work as a CUDA graph. The next replay overwrites what it returns."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries set themselves up at their first calls, which must not be captured
        for _ in range(WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        result = work()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay

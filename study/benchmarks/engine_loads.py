"""Loads for the benchmark of the engine: prompts of random tokens, to our server and a peer in turn."""

import asyncio
import gc
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from study.benchmarks.shapes import bytes_per_step, prompt
from study.common.client import Load, Target, load

PROMPT_TOKENS = 75
NEW_TOKENS = 64
NUMBERS_READ = 1 << 27
"""Numbers that are read to measure the memory's speed: 512 MB, more than any cache holds."""

Row = dict[str, Any]


class Bench:
    """One shape on one server of ours, and on a peer if there is one. Ours may have its weights in int8 or int4."""

    def __init__(self, shape: str, ours: Target, peer: Target | None = None, quantize: str | None = None) -> None:
        self.shape = shape
        self.weight_bytes = bytes_per_step(shape, quantize)
        self.servers = {"ours": ours} | ({"peer": peer} if peer else {})
        # This process has imported torch and transformers: its own collector would stop it for 150 ms now and then, and
        # every server would seem to have paused.
        gc.collect()
        gc.freeze()
        # Measured with each load of one stream: other work on the machine changes it within seconds.
        self.memory_speeds: list[float] = []
        self._seeds = itertools.count(time.time_ns())  # a prompt that a server has seen before proves nothing

    def prompts(self, streams: int, tokens: int = PROMPT_TOKENS) -> list[str]:
        return [prompt(self.shape, tokens, next(self._seeds)) for _ in range(streams)]

    def load(self, server: str, prompts: Sequence[str], max_tokens: int = NEW_TOKENS) -> Load:
        return asyncio.run(load(self.servers[server], prompts, max_tokens))

    def throughput(self, streams: Sequence[int], rounds: int) -> Iterator[Row]:
        """A row for each number of streams and each server: the load of `rounds` rounds after one to warm up."""
        for count in streams:
            for server in self.servers:
                self.load(server, self.prompts(count), max_tokens=4)
            loads: dict[str, list[Load]] = {server: [] for server in self.servers}
            for _ in range(rounds):
                for server in self.servers:
                    if count == 1:
                        self.memory_speeds.append(memory_speed())
                    loads[server].append(self.load(server, self.prompts(count)))
            for server, measured in loads.items():
                yield {"server": server, "streams": count} | together(measured).figures()


def memory_speed() -> float:
    """Bytes per second at which this machine reads memory: the best of a few sums."""
    ones = torch.ones(NUMBERS_READ)
    ones.sum()
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        ones.sum()
        seconds.append(time.perf_counter() - began)
    return ones.numel() * ones.element_size() / min(seconds)


def together(loads: Sequence[Load]) -> Load:
    """Several rounds as one load: their seconds add up."""
    return Load(
        streams=[stream for load in loads for stream in load.streams],
        seconds=sum(load.seconds for load in loads),
        health=[seconds for load in loads for seconds in load.health],
    )

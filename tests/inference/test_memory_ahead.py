"""Memory for weights is taken before it is needed, counted once, and given back if it is not used."""

import threading
from typing import Any

import pytest
import torch

from backends.own_engine import load_engine
from config import Config
from engine import Engine
from inference import early_compilers
from inference.decoders.native.large_pages import LargePages
from inference.weights import checkpoint, memory_ahead
from inference.weights.gguf.source import GGUFSource
from inference.weights.memory_ahead import AHEAD, MemoryAhead
from interface.errors import LoadError
from tests.support.smollm2 import smollm2_file

SMALL = 2**20


@pytest.fixture(autouse=True)
def small_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_ahead, "REGION", SMALL)


def fetched(size: int) -> MemoryAhead:
    ahead = MemoryAhead()
    ahead.fetch(size)
    for thread in threading.enumerate():
        if thread.name == "memory":
            thread.join(timeout=30)
    return ahead


def test_what_is_taken_has_been_fetched_and_is_zero() -> None:
    ahead = fetched(3 * SMALL - 1)
    assert ahead.bytes == 3 * SMALL
    pieces = [LargePages(ahead).take(100) for _ in range(4)]
    assert ahead.bytes == 0, "the fourth has a region of its own"
    for number, piece in enumerate(pieces):
        assert not piece.any()
        piece[:] = number + 1
    assert [set(piece.tolist()) for piece in pieces] == [{1}, {2}, {3}, {4}]


def test_no_more_is_fetched_than_is_still_needed() -> None:
    ahead = MemoryAhead()
    ahead._wanted = 2
    ahead.take()
    ahead._fetch_all()
    assert ahead.bytes == SMALL


def test_what_is_given_back_meanwhile_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = MemoryAhead()
    make = memory_ahead.region

    def made(size: int) -> Any:
        ahead.give_back()
        return make(size)

    monkeypatch.setattr(memory_ahead, "region", made)
    ahead._wanted = 2
    ahead._fetch_all()
    assert ahead.bytes == 0


def test_where_there_is_no_memory_the_start_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(size: int) -> Any:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(memory_ahead, "region", none)
    assert fetched(SMALL).bytes == 0


def test_what_has_been_fetched_for_the_weights_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    source, config = GGUFSource(smollm2_file(), "model"), Config(compile=True)
    monkeypatch.setattr(checkpoint, "AHEAD", fetched(SMALL))
    counted = checkpoint._weight_bytes(source, config, torch.bfloat16, torch.device("cpu"))
    assert counted == source.file.bytes - SMALL


def test_a_model_that_cannot_be_loaded_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: Config) -> Engine:
        raise LoadError("no such model")

    monkeypatch.setattr(early_compilers, "compile_ahead", lambda config: AHEAD.fetch(SMALL))
    monkeypatch.setattr(Engine, "load", refuse)
    with pytest.raises(LoadError):
        load_engine(Config())
    assert AHEAD.bytes == 0

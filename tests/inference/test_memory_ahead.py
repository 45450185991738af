"""Memory for weights is taken before it is needed, counted once, and given back if it is not used."""

import os
import sys
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
from study.common.launcher import memory_of
from tests.support.smollm2 import smollm2_file
from tests.support.threads import refuse_threads

SMALL = 2**20
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems provide no memory in advance")


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_ahead, "REGION", SMALL)
    monkeypatch.setattr(memory_ahead, "STEP", SMALL)


def wait_for_memory() -> None:
    for thread in threading.enumerate():
        if thread.name == "memory":
            thread.join(timeout=30)


def fetched(size: int) -> MemoryAhead:
    ahead = MemoryAhead()
    ahead.fetch(size)
    wait_for_memory()
    return ahead


@needs_linux
def test_memory_that_is_taken_has_been_fetched_and_is_zero() -> None:
    ahead = fetched(3 * SMALL - 1)
    assert ahead.bytes == 3 * SMALL - 1
    pages = LargePages(ahead)
    pieces = [pages.take(SMALL) for _ in range(3)]
    assert ahead.bytes == 0
    for number, piece in enumerate(pieces):
        assert not piece.any()
        piece[:] = number + 1
    assert [set(piece.tolist()) for piece in pieces] == [{1}, {2}, {3}]
    assert pieces[2].ctypes.data - pieces[0].ctypes.data == 2 * SMALL, "nothing between them is wasted"


def test_fetched_memory_is_taken_once() -> None:
    ahead = fetched(SMALL)
    first, second = LargePages(ahead).take(100), LargePages(ahead).take(100)
    first[:] = 1
    assert not second.any()


@needs_linux
def test_providing_memory_leaves_what_is_in_it() -> None:
    memory = memory_ahead.region(SMALL)
    memory[100:200] = 7
    assert memory_ahead.provide(memory)
    assert memory[100:200].tolist() == [7] * 100
    assert memory.sum() == 700


@needs_linux
def test_what_was_fetched_and_is_not_needed_is_given_back() -> None:
    pages = LargePages(fetched(64 * SMALL))
    used = pages.take(SMALL)
    used[:] = 1
    before = memory_of(os.getpid())
    pages.release_rest()
    assert before - memory_of(os.getpid()) > 40 * SMALL
    assert used.all()
    assert not pages.take(SMALL).any()


def test_what_is_given_back_meanwhile_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead, provided = MemoryAhead(), []

    def provide(memory: Any) -> bool:
        provided.append(memory.nbytes)
        ahead.give_back()
        return True

    monkeypatch.setattr(memory_ahead, "provide", provide)
    ahead.fetch(3 * SMALL)
    wait_for_memory()
    assert (provided, ahead.bytes, ahead.take()) == ([SMALL], 0, None)


def test_where_there_is_no_memory_the_start_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(size: int) -> Any:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(memory_ahead, "region", none)
    ahead = fetched(SMALL)
    assert (ahead.bytes, ahead.take()) == (0, None)


def test_where_there_is_no_thread_to_fetch_it_memory_comes_as_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_threads(monkeypatch)
    ahead = MemoryAhead()
    ahead.fetch(SMALL)
    assert ahead.bytes == 0
    assert not LargePages(ahead).take(SMALL).any()


def test_where_the_system_provides_none_in_advance_it_comes_as_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_ahead, "provide", lambda memory: False)
    ahead = fetched(SMALL)
    assert ahead.bytes == 0
    assert not LargePages(ahead).take(SMALL).any()


@needs_linux
def test_what_has_been_fetched_for_the_weights_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    source = GGUFSource(smollm2_file(), "model")
    monkeypatch.setattr(checkpoint, "AHEAD", fetched(SMALL))
    counted = checkpoint._weight_bytes(source, source, torch.bfloat16)
    assert counted == source.file.bytes_held - SMALL


def test_a_model_that_cannot_be_loaded_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: Config) -> Engine:
        raise LoadError("no such model")

    monkeypatch.setattr(early_compilers, "compile_ahead", lambda config: AHEAD.fetch(SMALL))
    monkeypatch.setattr(Engine, "load", refuse)
    with pytest.raises(LoadError):
        load_engine(Config())
    assert AHEAD.bytes == 0

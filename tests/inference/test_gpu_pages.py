"""On a GPU the cache has memory only where it has tokens. Here the GPU's driver is a fake."""

import gc
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from inference.cache import gpu_pages
from inference.cache.gpu_pages import GpuPages
from inference.cache.pages import Layers
from inference.cache.reserved import PIECE, Reserved, Whole, memory_of
from inference.cache.sizes import PAGE_TOKENS

CPU = torch.device("cpu")
MIB = 2**20


@dataclass
class FakeDriver:
    """Remembers what it was asked for. Its memory has an end."""

    granularity: int = 2 * MIB
    left: int = 100 * PIECE
    backed: list[tuple[int, int]] = field(default_factory=list)
    released: list[tuple[int, int]] = field(default_factory=list)

    def reserve(self, size: int) -> int:
        assert size % self.granularity == 0
        return 1 << 40

    def back(self, address: int, size: int) -> None:
        assert address % self.granularity == size % self.granularity == 0
        if size > self.left:
            raise torch.OutOfMemoryError("none left")
        self.left -= size
        self.backed.append((address - (1 << 40), size))

    def release(self, address: int, size: int, backed: list[tuple[int, int]]) -> None:
        self.released = [(piece - address, piece_size) for piece, piece_size in backed]


class FakeMemory:
    """Bytes that are NaN, whatever type they are read as, and which of them are said to be there."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._bytes = torch.full((size,), 255, dtype=torch.uint8)
        self.is_backed = torch.zeros(size, dtype=torch.bool)

    def back(self, first: int, last: int) -> None:
        self.is_backed[first:last] = True

    def tensor(self) -> Tensor:
        return self._bytes

    @property
    def backed_bytes(self) -> int:
        return int(self.is_backed.sum())


def test_memory_comes_where_it_is_asked_for_and_once() -> None:
    driver = FakeDriver()
    reserved = Reserved(10 * PIECE + 5, CPU, driver)
    assert reserved.size == 11 * PIECE
    assert reserved.backed_bytes == 0
    reserved.back(3 * PIECE - 1, 3 * PIECE + 1)
    reserved.back(2 * PIECE, 4 * PIECE)
    reserved.back(10 * PIECE, 10 * PIECE + 5)
    assert driver.backed == [(2 * PIECE, PIECE), (3 * PIECE, PIECE), (10 * PIECE, PIECE)]
    assert reserved.backed_bytes == 3 * PIECE


def test_pieces_are_as_large_as_the_driver_wants_them() -> None:
    driver = FakeDriver(granularity=4 * PIECE)
    Reserved(PIECE, CPU, driver).back(0, 1)
    assert driver.backed == [(0, 4 * PIECE)]


def test_memory_goes_back_piece_by_piece_when_the_last_one_leaves() -> None:
    driver = FakeDriver()
    reserved = Reserved(9 * PIECE, CPU, driver)
    reserved.back(4 * PIECE, 6 * PIECE)
    del reserved
    gc.collect()
    assert driver.released == [(4 * PIECE, PIECE), (5 * PIECE, PIECE)]


def test_a_piece_that_the_device_does_not_have_can_be_asked_for_again() -> None:
    driver = FakeDriver(left=PIECE)
    reserved = Reserved(3 * PIECE, CPU, driver)
    with pytest.raises(torch.OutOfMemoryError):
        reserved.back(0, 2 * PIECE)
    driver.left = 2 * PIECE
    reserved.back(0, 2 * PIECE)
    assert driver.backed == [(0, PIECE), (PIECE, PIECE)]


def test_without_the_cuda_package_all_memory_is_taken_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(device: torch.device) -> None:
        raise ImportError("No module named 'cuda'")

    monkeypatch.setattr("inference.cache.reserved.CudaDriver", refuse)
    monkeypatch.setattr("inference.cache.reserved.Whole", lambda size, device: Whole(size, CPU))
    assert memory_of(1000, torch.device("cuda")).backed_bytes == 1000
    assert "all of its memory at once: No module named 'cuda'" in caplog.text


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> GpuPages:
    monkeypatch.setattr(gpu_pages, "memory_of", FakeMemory)
    return GpuPages(3, 5 * PAGE_TOKENS - 1, Layers(count=2, kv_heads=2, head_dim=4, dtype=torch.bfloat16), CPU)


def write(pages: GpuPages, slot: int, first: int, last: int, number: float) -> None:
    for layer in range(2):
        for tensor in pages.layer(layer):
            for position in range(first, last):
                tensor[slot, position // PAGE_TOKENS, position % PAGE_TOKENS] = number


PER_PAGE = 2 * 2 * PAGE_TOKENS * 2 * 4 * 2  # layers, keys and values, positions, heads, numbers, bytes


def test_memory_follows_the_tokens_of_a_slot(pages: GpuPages) -> None:
    assert pages.bytes == 15 * PER_PAGE
    backed = [0]
    for slot, first, last in [
        (1, 0, PAGE_TOKENS),
        (1, PAGE_TOKENS, PAGE_TOKENS + 1),
        (2, 0, 3),
        (1, PAGE_TOKENS + 1, 2 * PAGE_TOKENS),
        (1, 0, 7),
    ]:
        pages.reserve(slot, first, last)
        backed.append(pages.backed_bytes // PER_PAGE)
    assert backed == [0, 1, 2, 3, 3, 3]


@pytest.mark.parametrize("length", [1, PAGE_TOKENS - 1, PAGE_TOKENS, PAGE_TOKENS + 1, 3 * PAGE_TOKENS])
def test_a_copied_beginning_has_memory_and_is_the_same(pages: GpuPages, length: int) -> None:
    pages.reserve(0, 0, 3 * PAGE_TOKENS)
    write(pages, 0, 0, 3 * PAGE_TOKENS, 1.5)
    before = pages.backed_bytes
    pages.copy(0, 2, length)
    assert pages.backed_bytes - before == -(-length // PAGE_TOKENS) * PER_PAGE
    for layer in range(2):
        for tensor in pages.layer(layer):
            assert (tensor[2].flatten(0, 1)[:length] == 1.5).all()


def test_what_is_not_a_number_is_found_in_the_last_layer(pages: GpuPages) -> None:
    pages.reserve(0, 0, 2 * PAGE_TOKENS)
    write(pages, 0, 0, 2 * PAGE_TOKENS, 1.0)
    spans = [(0, 0, PAGE_TOKENS), (0, PAGE_TOKENS, PAGE_TOKENS + 3), (0, PAGE_TOKENS + 3, 2 * PAGE_TOKENS)]
    assert pages.are_finite(spans) == [True, True, True]
    write(pages, 0, PAGE_TOKENS + 2, PAGE_TOKENS + 3, float("inf"))
    assert pages.are_finite(spans) == [True, False, True]
    assert pages.are_finite([(0, 0, 2 * PAGE_TOKENS), (1, 0, 1)]) == [False, False]
    assert pages.are_finite([]) == []

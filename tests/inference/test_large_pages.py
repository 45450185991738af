"""Memory for packed weights comes in pieces that begin at cache lines and share nothing."""

import itertools
import sys
from pathlib import Path

import pytest

from inference.decoders.native.large_pages import ALIGNMENT, LargePages
from inference.weights.memory_ahead import REGION


def test_pieces_begin_at_cache_lines_and_share_nothing() -> None:
    pages = LargePages()
    pieces = [pages.take(size) for size in (1, 64, 100, 4096)]
    for number, piece in enumerate(pieces):
        assert piece.ctypes.data % ALIGNMENT == 0
        assert not piece.any()
        piece[:] = number + 1
    assert [set(piece.tolist()) for piece in pieces] == [{1}, {2}, {3}, {4}]


def test_a_matrix_larger_than_a_region_is_one_piece() -> None:
    pages = LargePages()
    small, large, after = pages.take(10), pages.take(REGION + 1), pages.take(10)
    large[-1] = 1
    assert len(large) == REGION + 1
    assert not small.any()
    assert not after.any()


def test_a_piece_outlives_its_allocator() -> None:
    piece = LargePages().take(10)
    piece[:] = 7
    assert piece.sum() == 70


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what pages a mapping may have")
def test_pieces_lie_where_the_system_gives_large_pages() -> None:
    piece = LargePages().take(10)
    address = piece.ctypes.data
    mappings = Path("/proc/self/smaps").read_text().split("VmFlags:")
    for mapping, flags in itertools.pairwise(mappings):
        lines = mapping.splitlines()
        first, last = next(line for line in lines if " kB" not in line and "-" in line).split()[0].split("-")
        if int(first, 16) <= address < int(last, 16):
            assert "hg" in flags.splitlines()[0].split()  # large pages are asked for
            assert "sh" not in flags.splitlines()[0].split()  # and it is not shared memory, which has none by default
            return
    pytest.fail("no mapping holds the piece")

"""What is left of loading our own engine when it is done."""

import os
import platform

import pytest

from backends.own_engine import give_back_freed_memory
from study.common.launcher import memory_of

MIB = 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries decide for themselves")
def test_what_loading_has_freed_goes_back_to_the_system() -> None:
    pieces = [b"x" * (100_000 + number) for number in range(1000)]
    kept = pieces[::50]  # what lies below them is not given back by itself
    del pieces
    before = memory_of(os.getpid())
    give_back_freed_memory()
    assert before - memory_of(os.getpid()) > 60 * MIB
    assert all(piece == b"x" * len(piece) for piece in kept)

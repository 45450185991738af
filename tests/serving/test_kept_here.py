"""What is kept in this process is read on a thread if it is large, so that nothing else waits for it."""

import asyncio

import pytest

from backends.kept_in_memory import KeptInMemory
from serving.kept import KeptHere, MustWait

pytestmark = pytest.mark.anyio
SMALL, LARGE = {"a 1": b"a" * 60, "a 2": b"b" * 30}, {"large": b"c" * 200}


def kept(most_bytes: int = 100) -> KeptHere:
    everything = KeptInMemory()
    everything.put(SMALL)
    everything.put(LARGE)
    return KeptHere(everything, most_bytes)


async def test_on_a_loop_a_request_reads_only_so_much() -> None:
    here = kept()
    assert here.find("a ") == SMALL
    assert here.get("no") is None
    with pytest.raises(MustWait):
        here.get("a 1")
    for look in (kept().get, kept().find):
        with pytest.raises(MustWait):
            look("large")


async def test_on_a_thread_it_reads_all_that_there_is() -> None:
    here = kept()
    assert await asyncio.to_thread(here.get, "large") == LARGE["large"]
    assert await asyncio.to_thread(here.find, "") == SMALL | LARGE
    assert here.drop("large")
    assert await asyncio.to_thread(here.get, "large") is None

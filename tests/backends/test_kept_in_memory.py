"""What is kept in memory, for later requests to find: bounded, and forgotten in the order of its last use."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.kept_in_memory import KeptInMemory
from backends.shared_blocks import BLOCK, Blocks, SharedBlocks


def pieces(number: int, size: int = 200) -> dict[str, bytes]:
    return {f"whole {number}": b"a" * size, f"part {number}": b"a"}


def test_what_is_kept_together_is_found_and_forgotten_together() -> None:
    kept = KeptInMemory()
    kept.put(pieces(1))
    kept.put(pieces(2))
    assert (kept.get("whole 1"), kept.get("part 1")) == (b"a" * 200, b"a")
    assert kept.drop("part 1")
    assert (kept.get("whole 1"), kept.get("part 1")) == (None, None)
    assert not kept.drop("whole 1")
    assert kept.get("part 2") == b"a"


def test_the_pieces_that_were_used_least_recently_are_forgotten_first() -> None:
    kept = KeptInMemory(most_bytes=1000)
    for number in range(10):
        kept.put(pieces(number))
        assert kept.get("part 0"), "used, though only in part"
    assert [number for number in range(10) if kept.get(f"whole {number}")] == [0, 7, 8, 9]


def test_what_is_too_large_alone_is_not_kept_and_takes_no_others_place() -> None:
    kept = KeptInMemory(most_bytes=1000)
    kept.put(pieces(1))
    kept.put(pieces(2, size=1000))
    assert kept.get("whole 1")
    assert kept.get("part 2") is None


def test_a_name_that_is_kept_again_leaves_nothing_of_the_first_time() -> None:
    kept = KeptInMemory(most_bytes=1000)
    for _ in range(100):
        kept.put(pieces(1))
    kept.put({"part 1": b"b"})
    assert (kept.get("part 1"), kept.get("whole 1")) == (b"b", None)
    kept.put(pieces(2, size=900))
    assert (kept.get("part 1"), kept.get("part 2")) == (b"b", b"a"), "the limit counts only what is there"


def test_what_is_put_beside_a_piece_shares_its_fate() -> None:
    kept = KeptInMemory(most_bytes=1000)
    kept.put(pieces(1))
    kept.put({"later": b"c"}, beside="part 1")
    kept.put({"whole 1": b"new"}, beside="later")
    assert (kept.get("whole 1"), kept.get("part 1"), kept.get("later")) == (b"new", b"a", b"c")
    assert kept.drop("part 1")
    assert kept.get("later") is None
    kept.put({"later": b"c"}, beside="part 1")
    assert kept.get("later") is None, "beside what is not kept"


def test_what_would_grow_too_large_stays_as_it_was() -> None:
    kept = KeptInMemory(most_bytes=1000)
    kept.put(pieces(1))
    kept.put({"later": b"c" * 900}, beside="part 1")
    assert (kept.get("whole 1"), kept.get("later")) == (b"a" * 200, None)
    kept.put({"later": b"c" * 700}, beside="part 1")
    assert kept.get("later")
    kept.put(pieces(2, size=300))
    assert (kept.get("later"), kept.get("whole 1")) == (None, None), "the limit counts what has come later"


def test_what_is_put_beside_much_costs_no_more_than_beside_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversation grows with each response, and what is kept of a stream in the background while it is made."""
    handled: list[Blocks] = []
    for name in ("keep", "drop"):
        monkeypatch.setattr(SharedBlocks, name, noting(getattr(SharedBlocks, name), handled))
    kept = KeptInMemory()
    kept.put({f"part {number}": b"a" for number in range(1000)})
    handled.clear()
    kept.put({"part 1000": b"a"}, beside="part 0")
    kept.put({"part 1": b"b"}, beside="part 0")
    assert len(handled) == 3, "one that is new, and one in another's place"
    assert len(kept.find("part ")) == 1001


def noting(
    method: Callable[[SharedBlocks, Blocks], Any], handled: list[Blocks]
) -> Callable[[SharedBlocks, Blocks], Any]:
    def note(self: SharedBlocks, blocks: Blocks) -> Any:
        handled.append(blocks)
        return method(self, blocks)

    return note


def test_pieces_are_found_by_how_their_names_begin() -> None:
    kept = KeptInMemory(most_bytes=1000)
    for number in (3, 1, 2):
        kept.put(pieces(number))
    assert list(kept.find("part ").items()) == [("part 3", b"a"), ("part 1", b"a"), ("part 2", b"a")]
    assert kept.find("no") == {}
    kept.put(pieces(4, size=400))
    assert list(kept.find("part ")) == ["part 1", "part 2", "part 4"], "finding is no use"


def test_pieces_are_found_in_the_order_in_which_they_were_put_first() -> None:
    kept = KeptInMemory()
    kept.put({"whole": b"", "part 3": b"a"})
    kept.put({"part 2": b"b"})
    kept.put({"part 1": b"c"}, beside="whole")
    kept.get("part 2")
    kept.put({"part 3": b"changed"}, beside="whole")
    assert list(kept.find("part ").items()) == [("part 3", b"changed"), ("part 2", b"b"), ("part 1", b"c")]


def test_turns_of_a_conversation_take_no_more_room_than_the_last_one_and_what_is_left_of_each() -> None:
    last = random.Random(1).randbytes(100 * BLOCK)
    turns = [last[: (number + 1) * BLOCK - 1] for number in range(100)]
    kept = KeptInMemory(most_bytes=203 * BLOCK)
    for number, turn in enumerate(turns):
        kept.put({f"turn {number}": turn})
    assert [kept.get(f"turn {number}") for number in range(100)] == turns
    assert kept.drop("turn 99")
    assert kept.get("turn 98") == turns[98], "what it had in common with another stays"


def test_a_piece_of_any_length_comes_back_and_leaves_nothing_behind() -> None:
    kept = KeptInMemory(most_bytes=10 * BLOCK)
    for size in (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK):
        piece = random.Random(size).randbytes(size)
        kept.put({"whole": piece, "again": piece})
        kept.put({"again": piece}, beside="whole")
        assert (kept.get("whole"), kept.get("again")) == (piece, piece)
        assert kept.drop("whole")
    kept.put({"all": random.Random(2).randbytes(10 * BLOCK - 3)})
    assert kept.get("all"), "there is room for as much as at the beginning"


NAMES = ("a", "b", "c", "d", "e")
PIECES = st.builds(
    lambda blocks, rest: b"".join(block * BLOCK for block in blocks) + rest,
    st.lists(st.sampled_from([b"1", b"2"]), max_size=3),
    st.sampled_from([b"", b"3", b"4" * (BLOCK - 1)]),
)
"""Pieces that have much in common."""
STEPS = st.lists(
    st.one_of(
        st.tuples(st.dictionaries(st.sampled_from(NAMES), PIECES, max_size=3), st.sampled_from([None, *NAMES])),
        st.sampled_from(NAMES),
    ),
    max_size=20,
)


@given(STEPS, st.sampled_from([3, 6, 20]))
@settings(max_examples=50)
def test_in_whatever_order_pieces_come_and_go_they_stay_whole_and_leave_all_room_behind(
    steps: list[tuple[dict[str, bytes], str | None] | str], blocks: int
) -> None:
    kept, last = KeptInMemory(most_bytes=blocks * BLOCK), dict[str, bytes]()
    for step in steps:
        if isinstance(step, str):
            kept.drop(step)
            assert kept.get(step) is None
            continue
        pieces, beside = step
        takes_place = beside is None or kept.get(beside) is not None
        kept.put(pieces, beside)
        if takes_place and all(kept.get(name) == piece for name, piece in pieces.items()):
            last |= pieces
        assert all(kept.get(name) in (None, last.get(name)) for name in NAMES)
    for name in NAMES:
        kept.drop(name)
    room = random.Random(2).randbytes(blocks * BLOCK - len("all"))
    kept.put({"all": room})
    assert kept.get("all") == room

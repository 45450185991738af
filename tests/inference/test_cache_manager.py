"""Which slot a prompt gets, what is cached there, and what it may copy from other slots."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.scheduling.cache_manager import LEAST_COPIED, CacheManager, Retention, Source, _common_prefix

LONG = list(range(100))


def test_the_slot_with_the_longest_common_beginning_minus_lost_tokens_is_taken() -> None:
    cache = CacheManager(3)
    slots = [cache.allocate(prompt)[0] for prompt in (LONG, LONG[:50], [7])]
    cache.free(slots[0], LONG)
    cache.free(slots[1], LONG[:50])
    cache.free(slots[2], [7])
    assert cache.allocate([*LONG[:50], 1000, 1001]) == (slots[1], 50)
    assert cache.allocate([*LONG[:50], 2000, 2001]) == (slots[0], 50)
    assert cache.allocate([*LONG[:50], 3000]) == (slots[2], 0)
    assert not cache.can_allocate


def converse(cache: CacheManager, text: list[int]) -> int:
    """Let a text have its turn, by itself; return how many of its tokens were cached."""
    slot, cached = cache.allocate([*text, -1])
    cache.free(slot, text)
    return cached


def test_chats_that_take_turns_keep_their_texts_though_long_ones_fill_all_slots() -> None:
    cache = CacheManager(4)
    for number in range(4):
        converse(cache, [1000 * (number + 1) + token for token in range(500)])
    chats = [[100 * (number + 1)] * 50 for number in range(3)]
    for _ in range(20):
        for chat in chats:
            converse(cache, chat)
    assert [converse(cache, chat) for chat in chats] == [50, 50, 50]


def test_short_texts_do_not_push_out_a_long_one_at_once() -> None:
    cache = CacheManager(2)
    converse(cache, LONG)
    for number in range(9):
        converse(cache, [1000 + number] * 10)
    assert converse(cache, LONG) == 100


def test_a_chat_whose_answers_are_not_repeated_pushes_no_other_text_out_while_a_slot_is_empty() -> None:
    cache = CacheManager(3)
    converse(cache, LONG)
    for turn in range(5):
        slot, _ = cache.allocate([1000] * 40)
        cache.free(slot, [1000] * 40 + [2000 + turn] * 30)
    for other in ([3000] * 10, [4000] * 10):
        converse(cache, other)
    assert converse(cache, LONG) == 100


def test_a_long_text_leaves_when_others_have_lost_as_much() -> None:
    cache = CacheManager(2)
    converse(cache, LONG)
    for number in range(20):
        converse(cache, [1000 + number] * 10)
    assert converse(cache, LONG) == 0


def test_the_last_token_of_a_prompt_is_never_cached() -> None:
    cache = CacheManager(1)
    slot, _ = cache.allocate(LONG)
    cache.free(slot, LONG)
    assert cache.allocate(LONG) == (slot, 99)


def test_a_running_slot_is_a_source_for_those_after_it_and_never_for_those_before() -> None:
    cache = CacheManager(3)
    first, second, third = (cache.allocate(LONG)[0] for _ in range(3))
    assert cache.source_for(first, 0) is None
    assert cache.source_for(second, 0) == Source(first, 99)
    assert cache.source_for(third, 0) == Source(first, 99)
    cache.free(first, LONG[:30])
    assert cache.source_for(second, 0) == Source(first, 30)
    assert cache.source_for(third, 0) == Source(second, 99)


def test_what_saves_too_little_is_not_copied() -> None:
    cache = CacheManager(2)
    cache.allocate(LONG)
    other, _ = cache.allocate([*LONG[:50], 1000])
    assert cache.source_for(other, 50 - LEAST_COPIED) == Source(0, 50)
    assert cache.source_for(other, 51 - LEAST_COPIED) is None


@pytest.mark.parametrize(
    ("held", "beginning", "reused"),
    [(10, 3, 3), (11, 3, 0), (11, 8, 0), (11, 9, 9)],
    ids=["just whole", "not whole", "too far behind the end", "near the end"],
)
def test_of_a_text_longer_than_a_window_only_its_end_can_be_continued(held: int, beginning: int, reused: int) -> None:
    cache = CacheManager(1, Retention(whole=10, behind=2))
    slot, _ = cache.allocate(LONG[:held])
    cache.free(slot, LONG[:held])
    assert cache.allocate([*LONG[:beginning], 1000, 1001]) == (slot, reused)


def test_what_a_long_text_pushed_out_of_its_slot_is_gone_until_another_text_begins_there() -> None:
    cache = CacheManager(1, Retention(whole=10, behind=2))
    for text, reused in ((LONG[:20], 0), ([*LONG[:19], 7], 19), ([*LONG[:5], 7], 0), ([*LONG[:5], 8], 5)):
        slot, cached = cache.allocate(text)
        assert cached == reused
        cache.free(slot, text)


def test_a_prompt_that_must_be_computed_reuses_nothing() -> None:
    cache = CacheManager(1)
    slot, _ = cache.allocate(LONG)
    cache.free(slot, LONG)
    assert cache.allocate(LONG, reuse=False) == (slot, 0)


BITS = st.lists(st.integers(0, 1), max_size=12)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(beginning=st.integers(0, 40), one=BITS, other=BITS)
def test_the_common_beginning_is_found_to_the_token(beginning: int, one: list[int], other: list[int]) -> None:
    one, other = list(range(beginning)) + one, list(range(beginning)) + other
    expected = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))
    assert _common_prefix(one, other) == expected

"""Which slot a prompt gets, what is cached there, and what it may copy from other slots."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.scheduling.cache_manager import LEAST_COPIED, CacheManager, Source, _common_prefix

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

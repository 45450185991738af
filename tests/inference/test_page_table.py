"""The table of the cache: which slots have which page."""

from hypothesis import given
from hypothesis import strategies as st

from inference.cache.page_table import PageTable

SLOTS, PER_SLOT = 4, 3


def pages(table: PageTable, slot: int) -> list[int]:
    return [table.page(slot, place) for place in range(table.count(slot))]


def test_a_slot_has_pages_of_its_own() -> None:
    table = PageTable(SLOTS, PER_SLOT)
    assert [table.append(0), table.append(1), table.append(0)] == [0, 1, 2]
    assert (pages(table, 0), pages(table, 1), pages(table, 2)) == ([0, 2], [1], [])
    assert not table.is_shared(0, 1)


def test_a_page_is_free_when_the_last_slot_that_shares_it_has_given_it_back() -> None:
    table = PageTable(SLOTS, PER_SLOT)
    number = table.append(0)
    for target in (1, 2):
        table.share(0, target, 1)
    table.truncate(0, 0)
    table.truncate(2, 0)
    assert not table.is_shared(1, 0)
    assert table.append(3) != number
    table.truncate(1, 0)
    assert table.append(3) == number


def test_a_slot_that_replaces_a_shared_page_leaves_it_to_the_others() -> None:
    table = PageTable(SLOTS, PER_SLOT)
    shared = table.append(0)
    table.share(0, 1, 1)
    own = table.replace(1, 0)
    assert (pages(table, 0), pages(table, 1)) == ([shared], [own])
    assert not table.is_shared(0, 0)


slots, places = st.integers(0, SLOTS - 1), st.integers(0, PER_SLOT)


@given(st.lists(st.tuples(st.sampled_from(["grow", "truncate", "share", "replace"]), slots, slots, places)))
def test_there_is_always_a_page_for_a_slot_that_has_room_and_no_two_texts_mix(
    steps: list[tuple[str, int, int, int]],
) -> None:
    table = PageTable(SLOTS, PER_SLOT)
    texts: list[list[int]] = [[] for _ in range(SLOTS)]  # what each slot's pages hold
    held: dict[int, int] = {}
    for number, (kind, slot, other, place) in enumerate(steps):
        if kind == "grow" and len(texts[slot]) < PER_SLOT:
            held[table.append(slot)] = number
            texts[slot].append(number)
        elif kind == "truncate":
            table.truncate(slot, place)
            del texts[slot][place:]
        elif kind == "share" and slot != other:
            count = min(place, len(texts[slot]))
            table.share(slot, other, count)
            texts[other] = texts[slot][:count]
        elif kind == "replace" and place < len(texts[slot]) and table.is_shared(slot, place):
            held[table.replace(slot, place)] = number
            texts[slot][place] = number
        assert [[held[page] for page in pages(table, slot)] for slot in range(SLOTS)] == texts

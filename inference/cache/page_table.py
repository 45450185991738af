"""Which pages of a cache hold each slot's text: a block table, as in PagedAttention (Kwon et al. 2023).

Texts that begin alike share the pages that lie within their common beginning. A shared page is never written to: the
slot that is to write there is given a page of its own first. So a copied beginning takes neither memory nor time, but
for a part of one page, and a page that no slot uses any more is free for any other.

There are as many pages as all slots together can fill. A slot either gets one more, while it has room for it, or one
of its own in place of one that it shares; so there is always a free one.
"""

from array import array


class PageTable:
    """The pages of each slot, numbers from 0 on, in the order of the text."""

    def __init__(self, slots: int, per_slot: int) -> None:
        self.per_slot = per_slot
        self._numbers = array("q", bytes(8 * slots * per_slot))  # it never moves: see `address`
        self._counts = [0] * slots  # how many of its entries a slot uses
        self._users = [0] * (slots * per_slot)  # how many slots use each page
        self._free = list(range(slots * per_slot))[::-1]  # the last one is taken next: memory that has been used before

    @property
    def address(self) -> int:
        """Where the table lies, for code that is not Python: [slots][per_slot], int64."""
        return self._numbers.buffer_info()[0]

    def count(self, slot: int) -> int:
        """How many pages a slot has."""
        return self._counts[slot]

    def page(self, slot: int, place: int) -> int:
        """A slot's page at this place of its text."""
        return self._numbers[slot * self.per_slot + place]

    def append(self, slot: int) -> int:
        """Give a slot one more page, of its own."""
        number = self._take_free()
        self._append(slot, number)
        return number

    def truncate(self, slot: int, count: int) -> None:
        """Leave a slot its first `count` pages."""
        for place in range(count, self._counts[slot]):
            self._release(self.page(slot, place))
        self._counts[slot] = min(count, self._counts[slot])

    def share(self, source: int, target: int, count: int) -> None:
        """Let a slot have the first `count` pages of another one, and no others."""
        shared = [self.page(source, place) for place in range(count)]
        for number in shared:
            self._users[number] += 1
        self.truncate(target, 0)
        for number in shared:
            self._append(target, number)

    def is_shared(self, slot: int, place: int) -> bool:
        """Whether other slots have a slot's page at this place, too."""
        return self._users[self.page(slot, place)] > 1

    def replace(self, slot: int, place: int) -> int:
        """Give a slot a page of its own at this place."""
        number = self._take_free()
        self._release(self.page(slot, place))
        self._numbers[slot * self.per_slot + place] = number
        return number

    def _append(self, slot: int, number: int) -> None:
        self._numbers[slot * self.per_slot + self._counts[slot]] = number
        self._counts[slot] += 1

    def _take_free(self) -> int:
        number = self._free.pop()
        self._users[number] = 1
        return number

    def _release(self, number: int) -> None:
        self._users[number] -= 1
        if self._users[number] == 0:
            self._free.append(number)

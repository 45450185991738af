"""Which tokens have followed a text's newest ones before, for models that must not repeat a sequence of tokens."""

from collections.abc import Sequence

Key = tuple[int, ...]


class Repeats:
    """The n-grams of one text, which only grows.

    Each token is taken once, so a step's cost does not depend on the length of the text.

    Args:
        size: tokens of an n-gram.
        token_ids: the beginning of the text.
    """

    def __init__(self, size: int, token_ids: Sequence[int]) -> None:
        self._length = size - 1
        self._ids: list[int] = []
        self._next: dict[Key, list[int]] = {}
        """By the first tokens of an n-gram, the last one of each."""
        for token_id in token_ids:
            self._add(token_id)
        self._given = len(token_ids)

    def after(self, output_ids: Sequence[int]) -> Sequence[int]:
        """The last tokens of the n-grams that begin as the text ends, after its beginning and these tokens."""
        for token_id in output_ids[len(self._ids) - self._given :]:
            self._add(token_id)
        return self._next.get(self._newest, ())

    def _add(self, token_id: int) -> None:
        if len(self._ids) >= self._length:
            self._next.setdefault(self._newest, []).append(token_id)
        self._ids.append(token_id)

    @property
    def _newest(self) -> Key:
        return tuple(self._ids[max(0, len(self._ids) - self._length) :])

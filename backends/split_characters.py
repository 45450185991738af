"""Joins characters whose halves came in two texts.

A server in JavaScript or Java counts characters in UTF-16, where one outside the basic plane is a pair of surrogates.
If it cuts a text between the two, JSON has an escape for each half: `"\\ud83d"` in one event, `"\\ude00"` in the next.
"""

import re

FIRST_HALF = re.compile("[\ud800-\udbff]$")


class SplitCharacters:
    """The pieces of one text. A first half waits for the piece after it."""

    def __init__(self) -> None:
        self._half = ""

    def joined(self, piece: str, is_last: bool) -> str:
        """Return the next piece in whole characters. A half without its other half becomes U+FFFD."""
        piece = self._half + piece
        if piece.isascii():
            return piece
        found = None if is_last else FIRST_HALF.search(piece)
        self._half = found[0] if found else ""
        whole = piece.removesuffix(self._half)
        return whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

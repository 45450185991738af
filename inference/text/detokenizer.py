"""Turns a growing list of token ids into text, never splitting a character.

A byte-level tokenizer may spread one character over several tokens; decoded too early, its first bytes show as
U+FFFD. Tokens are also not decoded alone: a space may belong to the boundary between two of them.

Invariant: the joined results of `push` and `flush` are the decode of all the ids. (For tokenizers with byte fallback
this holds for valid UTF-8; what they decode invalid bytes to depends on the bytes after them.)
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

Decode = Callable[[Sequence[int]], str]

REPLACEMENT = "\ufffd"
CONTEXT = 4
"""Tokens kept before the new ones, so that none is decoded alone."""


def is_rewritten(decode: Decode, token_ids: Sequence[int]) -> bool:
    """Whether what one of these tokens says becomes another text when the next one follows.

    Then no stream can show it: a sign at a token's end may say that the word goes on, for example.
    """
    return any(not decode(pair).startswith(decode(pair[:1]).rstrip(REPLACEMENT)) for pair in pairwise(token_ids))


class Detokenizer:
    """Makes the text of one sequence, piece by piece."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._returned = 0  # characters of the decoded window that have been returned
        self._boundary: int | None = None  # an index in the window at which a character ended

    def push(self, token_id: int) -> str:
        """Add a token; return the text that it completes, without a character's first half."""
        self._window.append(token_id)
        decoded = self._decode(self._window)
        complete = decoded.rstrip(REPLACEMENT)
        text = complete[self._returned :]
        self._returned += len(text)
        if len(complete) == len(decoded):
            self._forget()
        return text

    def flush(self) -> str:
        """Return what was held back, at the end of the text; half a character becomes U+FFFD."""
        text = self._decode(self._window)[self._returned :]
        self._returned += len(text)
        return text

    def _forget(self) -> None:
        """Drop tokens that are no longer needed as context. Call it when a character has just ended."""
        if self._boundary is None:
            self._boundary = len(self._window)
            return
        context = self._window[self._boundary :]
        # A context without text would not do: many tokenizers drop the space before a text's first word.
        if len(context) >= CONTEXT and (text := self._decode(context)):
            self._window = context
            self._returned = len(text)
            self._boundary = len(context)

"""Turns a growing list of token ids into text, never splitting a character.

A byte-level tokenizer may spread one character over several tokens; decoded too early, its first bytes show as
U+FFFD. Tokens are also not decoded alone: a space may belong to the boundary between two of them.

Invariant: the joined results of `push` and `flush` are the decode of all the ids, or what they add to the decode of the
text that they continue: many tokenizers leave out the space before a text's first word. (For tokenizers with byte
fallback this holds for valid UTF-8; what they decode invalid bytes to depends on the bytes after them.)
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
    """Makes the text of one sequence, piece by piece.

    Args:
        decode: makes text of token ids.
        before: the tokens of another text that this one continues.
    """

    def __init__(self, decode: Decode, before: Sequence[int] = ()) -> None:
        self._decode = decode
        self._before = before[-CONTEXT:]
        self._window: list[int] = []
        self._returned = 0  # characters of the decoded window that have been returned
        self._boundary: int | None = None  # an index in the window at which a character ended

    def push(self, token_id: int) -> str:
        """Add a token; return the text that it completes, without a character's first half."""
        if self._before:
            self._continue()
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

    def _continue(self) -> None:
        """Begin with the tokens before the text as context, unless they have no text or end with half a character."""
        text = self._decode(self._before)
        if text and not text.endswith(REPLACEMENT):
            self._window, self._returned, self._boundary = [*self._before], len(text), len(self._before)
        self._before = ()

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

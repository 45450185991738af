"""Recognizes a prompt that is far too long for the context without tokenizing all of it.

Tokenizing a megabyte takes a third of a second, and a few such prompts would delay all the short ones. The length in
bytes is not a useful bound: the longest token of many vocabularies is 128 spaces. So ever longer beginnings are
tokenized, until one of them has clearly more tokens than the context.
"""

from collections.abc import Callable, Sequence

CHARACTERS_PER_TOKEN = 8
"""Characters of the first beginning for each token of the context: twice what English texts have, so that it usually
decides."""
MARGIN = 1.25
"""The last word of a beginning may be cut, and then have more tokens than it has in the whole text."""
FEW = 64


def tokens_at_least(text: str, context: int, tokenize: Callable[[str], Sequence[int]]) -> int | None:
    """How many tokens a text has at least, if it is certain not to fit; None if all of it has to be tokenized."""
    size = CHARACTERS_PER_TOKEN * context + FEW
    while size < len(text):
        tokens = len(tokenize(text[:size]))
        if tokens > MARGIN * context + FEW:
            return int(tokens / MARGIN)
        size *= 4
    return None

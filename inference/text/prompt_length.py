"""Tells a prompt that is far too long for the context from its beginning, without tokenizing all of it.

Tokenizing a megabyte takes a third of a second, and a few such prompts would hold up all the short ones. The length in
bytes is no sharp bound: the longest token of many vocabularies is 128 spaces. So a growing beginning is tokenized; as
soon as it has clearly more tokens than the context holds, the rest cannot make the prompt fit.
"""

from collections.abc import Callable, Sequence

CHARACTERS_PER_TOKEN = 8
"""Of the first beginning that is looked at: twice what English texts have, so that it usually decides."""
MARGIN = 1.25
"""Where a text is cut, its last word may become more tokens than it has in the whole text; not so many more, though."""
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

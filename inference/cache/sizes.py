"""The number of columns that a slot has in a layer of the cache. No tensors: memory is planned before they are made."""

PAGE_TOKENS = 128
"""Tokens that lie together in `Pages`, in all layers. Any layer that sees everything has whole pages, so what a cache
takes is known before there is a decoder. In pages of 64, steps of the decoder in C++ took as long with products of
pairs and 3 to 5% longer with plain vectors; in larger ones a short text takes more memory."""
BLOCK = 32
"""A ring's length is a multiple of this."""
SLACK = 256
"""Positions that a ring keeps beyond its window. A beginning that is shorter by at most this many can be continued:
a conversation without its last answer, for example."""


def row_length(context: int) -> int:
    """The context plus at least one, in whole pages: the columns of a layer that sees everything."""
    return (context // PAGE_TOKENS + 1) * PAGE_TOKENS


def page_count(length: int) -> int:
    """The number of pages that `length` positions take, the last of which may be partly used."""
    return -(-length // PAGE_TOKENS)


def kept_positions(context: int, window: int | None, slack: int) -> int:
    """The number of a text's last positions that a layer with this window keeps; None: it looks to the beginning."""
    whole = row_length(context)
    return whole if window is None else min(whole, -(-(window + slack) // BLOCK) * BLOCK)


def column_count(context: int, window: int | None, slack: int = SLACK) -> int:
    """The same, and one for the extra column of a ring, which is never read."""
    kept = kept_positions(context, window, slack)
    return kept + 1 if kept < row_length(context) else kept

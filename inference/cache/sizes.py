"""How many columns a slot has in a layer of the cache. No tensors: memory is planned before there is any."""

BLOCK = 32
"""Kernels may read, though never use, the positions up to the next multiple of this."""
SLACK = 256
"""Positions that a ring keeps beyond its window: so much shorter may a beginning be that is taken up again, such as a
conversation without its last answer."""


def row_length(context: int) -> int:
    """The context plus at least one, in whole blocks: the columns of a layer that sees everything."""
    return (context // BLOCK + 1) * BLOCK


def kept_positions(context: int, window: int | None, slack: int = SLACK) -> int:
    """How many of a text's last positions a layer keeps that looks back over a window; None: to the beginning."""
    whole = row_length(context)
    return whole if window is None else min(whole, -(-(window + slack) // BLOCK) * BLOCK)


def column_count(context: int, window: int | None, slack: int = SLACK) -> int:
    """The same with the column that a ring has more, which is never read."""
    kept = kept_positions(context, window, slack)
    return kept + 1 if kept < row_length(context) else kept

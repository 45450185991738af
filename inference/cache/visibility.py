"""Which positions of its slot a token may look at: all before it, those of a window, or what a model's mask says."""

from collections.abc import Callable

import torch
from torch import Tensor

TRIED = 64
"""How many tokens at the end of a text, and how many spread over it, tell how far back all of them look."""
Visible = Callable[[Tensor, Tensor], Tensor]
"""Says which positions of its slot a token may look at, by its own: a mask of booleans."""


def causal(positions: Tensor, keys: Tensor) -> Tensor:
    """A token looks at itself and at everything before it."""
    return keys <= positions


def causal_within(window: int) -> Visible:
    """A token looks at itself and at what is less than `window` positions before it."""
    return lambda positions, keys: (keys <= positions) & (keys > positions - window)


def window_of(visible: Visible, context: int, device: torch.device) -> int | None:
    """How far back tokens may look, if all tokens of a text may look equally far and not to its beginning."""
    positions = torch.cat(
        [torch.arange(max(0, context - TRIED), context), torch.linspace(0, context - 1, TRIED).long()]
    )
    rows = positions.to(device).view(-1, 1, 1)
    keys = torch.arange(context, device=device)
    window = int(visible(rows[min(context, TRIED) - 1], keys).expand(1, context).sum())
    within = causal_within(window)
    # Row by row: all of them at once would take a hundred times the memory of one.
    is_window = all(torch.equal(visible(row, keys).expand(1, context), within(row, keys)) for row in rows)
    return window if window < context and is_window else None

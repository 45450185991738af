"""Makes something slow once, and gives each caller a copy that a test may change."""

import copy
from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def own_copy(make: Callable[P, T]) -> Callable[P, T]:
    """Make what `make` returns once for the same arguments, and give each caller a copy of its own.

    What is shared and changed by one test is met by another, depending on which run in one process, and in what order.
    """
    made = cache(make)

    @wraps(make)
    def copied(*args: P.args, **kwargs: P.kwargs) -> T:
        return copy.deepcopy(made(*args, **kwargs))  # type: ignore[arg-type]  # the arguments are hashable

    return copied

"""Lets threads that wait for one engine's events step it themselves, one at a time.

A waiting thread either steps, or waits while another one steps. So the engine needs no thread of its own, and does
nothing while no thread waits.

Invariants:
    - At most one step runs at a time.
    - A thread never steps while it has news, so 64 waiting threads share each step.
"""

import threading
import time
from collections.abc import Callable

FOR_EVER = threading.TIMEOUT_MAX / 2
"""Seconds, more than a hundred years; with twice as many, waiting may overflow."""


class Turns:
    """Runs steps one after the other, each on one of the waiting threads."""

    def __init__(self, step: Callable[[], object]) -> None:
        self._step = step
        self._turn = threading.Condition()
        self._is_stepping = False
        self._begun = 0

    def wait_for(self, has_news: Callable[[], bool], seconds: float = FOR_EVER) -> bool:
        """Step, or let others step, until there is news.

        Returns:
            Whether there is news. False after the first step that ends past `seconds`.
        """
        deadline = time.monotonic() + seconds
        while not has_news():
            with self._turn:
                self._turn.wait_for(lambda: has_news() or not self._is_stepping, deadline - time.monotonic())
                if has_news():
                    return True
                if time.monotonic() >= deadline:
                    return False
                if self._is_stepping:
                    continue
                self._begin()
            self._run()
        return True

    def step(self) -> None:
        """Return when a step that began after this call has ended; run it unless another thread does."""
        with self._turn:
            begun = self._begun
            # Once the second step after this call has begun, the first has ended.
            self._turn.wait_for(lambda: not self._is_stepping or self._begun > begun + 1)
            if self._begun > begun:
                return
            self._begin()
        self._run()

    def _begin(self) -> None:
        self._is_stepping = True
        self._begun += 1

    def _run(self) -> None:
        try:
            self._step()
        finally:
            with self._turn:
                self._is_stepping = False
                self._turn.notify_all()

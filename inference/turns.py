"""Taking turns: threads that wait for one engine's events, and step it themselves, one at a time.

Whoever waits either steps, or waits while another one steps; so there is no thread of the engine's own, and an engine
that nobody waits for stands still.

Invariants:
    - At most one step runs at a time.
    - A thread never steps while it has news: 64 that wait share each step, they do not make 64.
"""

import threading
import time
from collections.abc import Callable


class Turns:
    """One step after the other, run by whichever thread's turn it is."""

    def __init__(self, step: Callable[[], object]) -> None:
        self._step = step
        self._turn = threading.Condition()
        self._is_stepping = False
        self._begun = 0

    def wait_for(self, has_news: Callable[[], bool], seconds: float) -> bool:
        """Step, or let others step, until there is news.

        Returns:
            Whether there is; False at the end of the first step that `seconds` have passed with.
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
        """Return when a step has begun since the call; run it if nobody else does."""
        with self._turn:
            begun = self._begun
            self._turn.wait_for(lambda: self._begun > begun or not self._is_stepping)
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

"""Threads that wait for one engine's events step it themselves, one at a time."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from inference.turns import Turns

WAIT = 30.0
"""Seconds after which a test that waits has failed."""


class Steps:
    """Steps that begin and end when the test says so."""

    def __init__(self, number: int) -> None:
        self.begun = [threading.Event() for _ in range(number)]
        self.go_on = [threading.Event() for _ in range(number)]
        self.ended = 0

    def __call__(self) -> None:
        step = self.ended
        self.begun[step].set()
        assert self.go_on[step].wait(WAIT)
        self.ended += 1


def started(function: Callable[..., Any], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread


def test_a_thread_waits_for_news_through_any_number_of_steps() -> None:
    steps = Steps(5)
    for may_end in steps.go_on:
        may_end.set()
    assert Turns(steps).wait_for(lambda: steps.ended == 5)


def test_a_step_that_a_thread_asks_for_has_ended_when_the_call_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(3)
    turns = Turns(steps)
    waiting = started(turns.wait_for, lambda: steps.ended >= 2, WAIT)
    assert steps.begun[0].wait(WAIT)
    ended_at_return: list[int] = []
    asks = threading.Event()
    wait_for = turns._turn.wait_for

    def noted_wait_for(predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        asks.set()
        return wait_for(predicate, timeout)

    monkeypatch.setattr(turns._turn, "wait_for", noted_wait_for)

    def ask() -> None:
        turns.step()
        ended_at_return.append(steps.ended)

    asking = started(ask)
    assert asks.wait(WAIT)
    steps.go_on[0].set()
    assert steps.begun[1].wait(WAIT)
    asking.join(0.2)  # it should not end: most often the other thread has begun the step
    steps.go_on[1].set()
    for thread in (asking, waiting):
        thread.join(WAIT)
    assert ended_at_return == [2]

"""Ways to watch and break an engine: step it, spy on its forwards, make its model raise."""

import contextlib
from collections.abc import Callable

from torch import Tensor

from engine import MAX_FAILED_STEPS, Engine
from inference.scheduling.scheduler import Schedule
from interface.errors import EngineFailed

LONG_PROMPT = "a long prompt, " * 6


def spy_on_schedules(engine: Engine) -> list[Schedule]:
    """Record the schedules of all forwards from now on."""
    schedules: list[Schedule] = []
    forward = engine._runner.forward

    def spying_forward(schedule: Schedule) -> Tensor:
        schedules.append(schedule)
        return forward(schedule)

    engine._runner.forward = spying_forward  # type: ignore[method-assign]
    return schedules


def break_the_model(engine: Engine) -> Callable[[], None]:
    """Make every forward raise, until the returned function is called."""
    forward = engine._runner.forward

    def broken_forward(schedule: Schedule) -> Tensor:
        raise RuntimeError("out of memory")

    def mend() -> None:
        engine._runner.forward = forward  # type: ignore[method-assign]

    engine._runner.forward = broken_forward  # type: ignore[method-assign]
    return mend


def fail_for_good(engine: Engine) -> None:
    """Make one step after another raise, until the engine has failed for good."""
    break_the_model(engine)
    for _ in range(MAX_FAILED_STEPS):
        with contextlib.suppress(EngineFailed):
            engine.generate("hello")


def steps(engine: Engine, number: int) -> None:
    for _ in range(number):
        engine.step()

"""What the engine's tests do to an engine: step it, spy on its forwards, break its model."""

from torch import Tensor

from engine import Engine
from inference.scheduling.scheduler import Schedule

LONG_PROMPT = "a long prompt, " * 6


def spy_on_schedules(engine: Engine) -> list[Schedule]:
    """What every forward from now on is to work on."""
    schedules: list[Schedule] = []
    forward = engine._runner.forward

    def spying_forward(schedule: Schedule) -> Tensor:
        schedules.append(schedule)
        return forward(schedule)

    engine._runner.forward = spying_forward  # type: ignore[method-assign]
    return schedules


def break_the_model(engine: Engine) -> None:
    """From now on every forward raises."""

    def broken_forward(schedule: Schedule) -> Tensor:
        raise RuntimeError("out of memory")

    engine._runner.forward = broken_forward  # type: ignore[method-assign]


def steps(engine: Engine, number: int) -> None:
    for _ in range(number):
        engine.step()

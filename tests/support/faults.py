"""Places where a service can be broken, and what clients then get: the table in docs/operations.md is made here.

    python -m tests.support.faults

`tests/serving/test_faults.py` breaks each of these places, once and for good.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

from backends.stepped import SteppedService
from engine import Engine
from serving.request_log import RequestLog
from serving.transcript.records import Record
from tests.support.serving import Service

FOR_GOOD = 10**9


class Fault:
    """Stands in for a function: raises the first `times` times that it is called, and then does what it should."""

    def __init__(self, function: Callable[..., Any], times: int) -> None:
        self.function = function
        self.left = times

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.left > 0:
            self.left -= 1
            raise ZeroDivisionError("injected")
        return self.function(*arguments, **options)

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        """Stand in for a method too, where it is a class that is broken."""
        return partial(self, instance)


@dataclass
class Parts:
    """The parts that can be broken."""

    engine: Engine
    carrier: SteppedService
    service: Service


@dataclass(frozen=True)
class Place:
    """The place of a fault, and its effects."""

    what: str
    find: Callable[[Parts], tuple[Any, str]]
    is_felt: bool = True
    """Whether the client of the request gets an error, if it raises once."""
    is_felt_for_good: bool = True
    """Whether clients get errors, if it raises every time."""
    survives: bool = True
    """Whether the service is alive after it has raised every time."""
    path: str = "/generate"


def loop_of(parts: Parts) -> tuple[Any, str]:
    """The loop by which the service hands events over; others use it as well."""
    loop = parts.carrier._loop
    names = ("call_soon", "call_soon_threadsafe", "is_closed")
    stand_in: Any = SimpleNamespace(**{name: getattr(loop, name) for name in names})
    parts.carrier._loop = stand_in
    return stand_in, "call_soon_threadsafe"


PLACES = {
    "forward": Place("the model's forward", lambda parts: (parts.engine._runner, "forward"), survives=False),
    "step": Place("forward and sampler together", lambda parts: (parts.engine._runner, "step"), survives=False),
    "sampler": Place("the sampler", lambda parts: (parts.engine._runner, "_choose"), survives=False),
    "tokenizer": Place("the tokenizer", lambda parts: (parts.engine._text.prompts, "render_checked")),
    "template": Place(
        "the chat template",
        lambda parts: (parts.engine._text.prompts._template, "render"),
        path="/v1/chat/completions",
    ),
    "reader": Place("detokenizing", lambda parts: (parts.engine._text.prompts, "decoder")),
    "hop": Place("the hop from the stepping thread to the loop", loop_of, is_felt=False, survives=False),
    "sink": Place("the driver, taking a step's events", lambda parts: (parts.carrier, "_on_events"), survives=False),
    "delivery": Place("one request's mailbox", lambda parts: (RequestLog, "record")),
    "step's count": Place(
        "counting a step", lambda parts: (parts.service.driver.metrics, "step"), is_felt=False, is_felt_for_good=False
    ),
    "count": Place(
        "counting a generation",
        lambda parts: (parts.service.driver.metrics, "generation"),
        is_felt=False,
        is_felt_for_good=False,
    ),
    "counters": Place(
        "counting an answer",
        lambda parts: (parts.service.driver.metrics, "answer"),
        is_felt=False,
        is_felt_for_good=False,
    ),
    "transcript": Place("the transcript", lambda parts: (Record, "_write"), is_felt=False, is_felt_for_good=False),
}


def table() -> str:
    """What each fault means, in Markdown."""
    lines = [
        "| what raises | once: the client gets | every time: clients get | `/live` then |",
        "|---|---|---|---|",
    ]
    for place in PLACES.values():
        once, always = ("an error" if is_felt else "its answer" for is_felt in (place.is_felt, place.is_felt_for_good))
        lines.append(f"| {place.what} | {once} | {always} | {200 if place.survives else 503} |")
    lines.append("| loading the model | an error | an error | 503 |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())

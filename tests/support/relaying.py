"""What the tests of engines elsewhere share: a driver in front of one, and one request's whole answer."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from config import Config
from inference.text.text_side import TextSide
from inference.weights.text_only import load_text_side
from interface.engine import EngineService
from interface.events import Event, Finished, Token
from interface.requests import GenerationRequest, TextPrompt
from serving.driver import Driver
from tests.support.asgi_client import until
from tests.support.driving import all_events

ANSWER = "The answer is 4, as é and 你好 say."
EOS = 2
PROMPT = TextPrompt("What is 2 + 2?")


@cache
def bundled_text() -> TextSide:
    """The bundled model's text side."""
    return load_text_side(Config())


def ids_of(text: str) -> list[int]:
    """A text in the bundled model's tokens."""
    return list(bundled_text().tokenize(TextPrompt(text, add_special_tokens=False)).token_ids)


@asynccontextmanager
async def driving_service(load: Callable[[Config], EngineService], config: Config) -> AsyncIterator[Driver]:
    """A driver whose engine is this service, as soon as it is ready or has failed."""
    driver = Driver(config, load)
    async with driver.running():
        await until(lambda: driver.status == "ok" or driver.vitals().has_failed)
        yield driver


async def ask(driver: Driver, request: GenerationRequest) -> list[Event]:
    return await all_events(await driver.submit([request], "an-id"))


def joined(events: list[Any]) -> str:
    """The answer's text."""
    return "".join(event.text for event in events if isinstance(event, Token))


def tokens_of(events: list[Event]) -> list[Token]:
    return [event for event in events if isinstance(event, Token)]


def finished(events: list[Event]) -> Finished:
    """The terminal event of an answer that was not broken off."""
    end = events[-1]
    assert isinstance(end, Finished), end
    return end

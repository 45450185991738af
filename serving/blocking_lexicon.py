"""The tokenizer of an engine service, for a thread that may block."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from interface.engine import EngineService, ModelInfo, Tokenized
from interface.requests import Prompt

Found = TypeVar("Found")


class BlockingLexicon:
    """The `Lexicon` of an engine service that runs on `loop`. Call it from any thread but the loop's own.

    `available_engine` returns the service, or raises EngineUnavailable. It is called only when something is asked: what
    is kept can be read without an engine.
    """

    def __init__(self, available_engine: Callable[[], EngineService], loop: asyncio.AbstractEventLoop) -> None:
        self._available_engine = available_engine
        self._loop = loop

    @property
    def info(self) -> ModelInfo:
        return self._available_engine().info

    def tokenize(self, prompt: Prompt) -> Tokenized:
        return self._wait_for(self._available_engine().tokenize(prompt))

    def detokenize(self, token_ids: Sequence[int]) -> str:
        return self._wait_for(self._available_engine().detokenize(token_ids))

    def _wait_for(self, answer: Coroutine[Any, Any, Found]) -> Found:
        return asyncio.run_coroutine_threadsafe(answer, self._loop).result()

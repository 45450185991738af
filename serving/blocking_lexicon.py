"""The tokenizer of an engine service, for a thread that may block."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from interface.engine import EngineService, ModelInfo, Tokenized
from interface.requests import Prompt

Found = TypeVar("Found")


class BlockingLexicon:
    """The `Lexicon` of an engine service that runs on `loop`. Call it from any thread but the loop's own."""

    def __init__(self, engine: EngineService, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop

    @property
    def info(self) -> ModelInfo:
        return self._engine.info

    def tokenize(self, prompt: Prompt) -> Tokenized:
        return self._wait_for(self._engine.tokenize(prompt))

    def detokenize(self, token_ids: Sequence[int]) -> str:
        return self._wait_for(self._engine.detokenize(token_ids))

    def _wait_for(self, answer: Coroutine[Any, Any, Found]) -> Found:
        return asyncio.run_coroutine_threadsafe(answer, self._loop).result()

"""Sequences of an engine elsewhere that sends token ids: their text is made here, and ended at stop strings.

So templates, stop strings, reasoning, tool calls and log probabilities are the same as with our own engine.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import anyio

from backends.relayed import RelayedService
from backends.threads import in_daemon_thread
from config import EngineSettings
from inference.text.text_side import TextSide
from interface.engine import ModelInfo, Tokenized
from interface.events import Event, Finished, FinishReason, Logprobs
from interface.requests import EncodedRequest, GenerationRequest, Prompt


@dataclass(frozen=True, slots=True)
class Made:
    """The next tokens of a sequence, as the engine sent them."""

    token_ids: Sequence[int]
    finish_reason: FinishReason | None = None
    logprobs: Sequence[Logprobs] = ()
    """An entry per token, if the request wants them."""
    cached_tokens: int = 0
    prompt_logprobs: Callable[[], Sequence[Logprobs]] = tuple
    """Those of the prompt's tokens from the second one on, as far as they are known; called before the first token."""


class TokenService(RelayedService):
    """A service whose engine takes and sends token ids; everything about texts is done here."""

    def __init__(self, config: EngineSettings, text: TextSide) -> None:
        super().__init__(config)
        self._text = text
        self._encoders = anyio.CapacityLimiter(2)

    @property
    def info(self) -> ModelInfo:
        return self._text.info

    async def tokenize(self, prompt: Prompt) -> Tokenized:
        return await in_daemon_thread(partial(self._text.tokenize, prompt), self._encoders)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return await in_daemon_thread(partial(self._text.detokenize, token_ids), self._encoders)

    async def _encode(self, requests: Sequence[GenerationRequest]) -> list[EncodedRequest]:
        """Render and tokenize prompts, and compile grammars, on a thread of its own. Raises RequestError."""
        return await in_daemon_thread(partial(self._text.encode, requests), self._encoders)


class TokenRelay:
    """Makes the events of one sequence out of its token ids, which a subclass gets from the engine."""

    def __init__(self, encoded: EncodedRequest, text: TextSide) -> None:
        self.encoded = encoded
        self.answer = text.answer(encoded)
        self.answer.admit()  # now, as the engine does not tell when
        self.is_finished = False

    @property
    def request(self) -> GenerationRequest:
        return self.encoded.request

    @property
    def prompt_tokens(self) -> int:
        return len(self.encoded.prompt_ids)

    def finish(self, reason: FinishReason, cached_tokens: int = 0) -> Finished:
        return self.answer.finish(reason, cached_tokens)

    def events_of(self, made: Made) -> Iterator[Event]:
        """Yield the events of the next tokens; afterwards `is_finished` says whether the terminal one was among them.

        The text may end before the engine does: at a stop string, or where its grammar allows no more tokens.
        """
        for place, token_id in enumerate(made.token_ids):
            ended = made.finish_reason if place == len(made.token_ids) - 1 else None
            logprobs = made.logprobs[place] if made.logprobs else None
            token, finish_reason = self.answer.append(token_id, logprobs, ended)
            if token.is_first and (echo := self.answer.echo(made.prompt_logprobs())) is not None:
                yield echo
            yield token
            if finish_reason is not None:
                yield self._finished(finish_reason, made)
                return
        if made.finish_reason is not None:
            yield self._finished(made.finish_reason, made)

    def _finished(self, reason: FinishReason, made: Made) -> Finished:
        self.is_finished = True
        return self.finish(reason, made.cached_tokens)

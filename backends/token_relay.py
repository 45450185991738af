"""Sequences of an engine elsewhere that tells its token ids: their text, and when it ends, is made here.

So templates, stop strings, reasoning, tool calls and log probabilities are the same as with our own engine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from inference.text.text_side import TextSide
from interface.events import Event, Finished, FinishReason, Logprobs, PromptEcho
from interface.requests import EncodedRequest, GenerationRequest


@dataclass(frozen=True, slots=True)
class Made:
    """What an engine has told of a sequence since the last time."""

    token_ids: Sequence[int]
    finish_reason: FinishReason | None = None
    logprobs: Sequence[Logprobs] = ()
    """An entry per token, if the request wants them."""
    cached_tokens: int = 0


class TokenRelay:
    """Makes the events of one sequence out of its token ids. A subclass says where they come from."""

    def __init__(self, encoded: EncodedRequest, text: TextSide) -> None:
        self.encoded = encoded
        self.answer = text.answer(encoded)
        self.answer.admit()  # how long it waits there for its turn is not told
        self.is_finished = False
        self._grammar = None if encoded.grammar is None else encoded.grammar.start()

    @property
    def request(self) -> GenerationRequest:
        return self.encoded.request

    @property
    def prompt_tokens(self) -> int:
        return len(self.encoded.prompt_ids)

    def finish(self, reason: FinishReason, cached_tokens: int = 0) -> Finished:
        return self.answer.finish(reason, cached_tokens)

    def echo(self, logprobs: Sequence[Logprobs] = ()) -> Iterator[PromptEcho]:
        """The prompt, if the request asked for it."""
        if (echo := self.answer.echo(logprobs)) is not None:
            yield echo

    def events_of(self, made: Made) -> Iterator[Event]:
        """The events that some more tokens make. `is_finished` says then whether the terminal one was among them.

        The text may end before the engine does: at a stop string, or where its grammar leaves nothing more to say.
        """
        for place, token_id in enumerate(made.token_ids, start=1):
            is_ended = self._push(token_id)
            is_final = made.finish_reason is not None and place == len(made.token_ids)
            is_last = is_ended or is_final or self.answer.tokens == self.encoded.params.max_tokens
            yield self.answer.take(token_id, is_last, made.logprobs[place - 1] if made.logprobs else None)
            if is_last:
                is_ended = is_ended or self.answer.is_ended
                yield self._finished("stop" if is_ended else made.finish_reason or "length", made)
                return
        if made.finish_reason is not None:
            yield self._finished(made.finish_reason, made)

    def _push(self, token_id: int) -> bool:
        """Add a token; return whether the text ends with it."""
        self.answer.push(token_id)
        if self._grammar is None or self.answer.is_ended:
            return self.answer.is_ended
        self._grammar.advance(token_id)
        return bool(self._grammar.is_finished)

    def _finished(self, reason: FinishReason, made: Made) -> Finished:
        self.is_finished = True
        return self.finish(reason, made.cached_tokens)

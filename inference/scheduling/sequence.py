"""One sequence's state, from its submit to its terminal event: its tokens, its text, its times. No tensors."""

import random
import time
from array import array
from collections.abc import Callable, Mapping
from collections.abc import Sequence as TokenIds

from inference.scheduling.sample_args import LogitBias, RowLogprobs, SampleArgs, TokenCounts
from inference.text.output_text import OutputText
from inference.text.token_bytes import TokenBytes
from interface.engine import Sink
from interface.events import Failed, Finished, FinishReason, Logprobs, Part, PromptEcho, Token, TokenLogprob
from interface.requests import EncodedRequest, TextPrompt


class Sequence:
    """Prompt and output of one request. Only the engine's step changes it.

    Args:
        decode: makes text of token ids.
        ends: the tokens that end the text, each with what `Finished.stop_reason` says then.
        token_bytes: what each token is by itself.
    """

    def __init__(
        self,
        encoded: EncodedRequest,
        sink: Sink,
        decode: Callable[[TokenIds[int]], str],
        ends: Mapping[int, str | int | None],
        token_bytes: TokenBytes,
    ) -> None:
        self.sequence_id = encoded.sequence_id
        self.sink = sink
        self.prompt_ids = encoded.prompt_ids
        self.wants_prompt_logprobs = encoded.request.prompt_logprobs
        self.slot: int | None = None
        self.cached_tokens = 0  # how many of its tokens have their keys and values in the cache
        self.output_ids: list[int] = []
        self._request = encoded.request
        self._params = encoded.params
        self._reused_tokens = 0  # how many of its tokens were in the cache when it was admitted
        self._decode = decode
        self._text = OutputText(decode, ends, encoded.params)
        self._grammar = None if encoded.grammar is None else encoded.grammar.start()
        self._parser = None if encoded.reader is None else encoded.reader.start()
        self._reasoning_tokens = 0
        self._token_bytes = token_bytes
        self._prompt_logprobs: list[RowLogprobs] = []
        self._seen = _seen(encoded)
        self._bias = LogitBias(encoded.params.logit_bias) if encoded.params.logit_bias else None
        self._end_ids = array("q", ends)
        self._random = random.Random(encoded.params.seed)
        self._submitted_at = time.perf_counter()
        self._admitted_at: float | None = None
        self._first_token_at: float | None = None
        self._last_token_at: float | None = None

    @property
    def is_prefilled(self) -> bool:
        return self.cached_tokens >= len(self.prompt_ids)

    @property
    def cached_ids(self) -> list[int]:
        """The tokens whose keys and values its slot holds."""
        return [*self.prompt_ids, *self.output_ids][: self.cached_tokens]

    def admit(self, slot: int, reused_tokens: int = 0) -> None:
        """Take a slot, which holds the keys and values of the prompt's first `reused_tokens` already."""
        self.slot = slot
        self.reuse(reused_tokens)
        self._admitted_at = time.perf_counter()

    def reuse(self, tokens: int) -> None:
        """Note that the slot holds the keys and values of the prompt's first tokens, though they were not computed."""
        self.cached_tokens = self._reused_tokens = tokens

    def sample_args(self) -> SampleArgs:
        """How to sample the next token, with a random number of its own."""
        params = self._params
        assert params.temperature is not None
        assert params.top_p is not None
        assert params.top_k is not None
        assert params.min_p is not None
        assert params.repetition_penalty is not None
        return SampleArgs(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            min_p=params.min_p,
            uniform=self._random.random(),
            repetition_penalty=params.repetition_penalty,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            seen=self._seen,
            bias=self._bias,
            banned_ids=self._end_ids if len(self.output_ids) < params.min_tokens else None,
            mask=None if self._grammar is None else self._grammar.mask(),
            logprobs=params.logprobs,
        )

    @property
    def grammar_error(self) -> str | None:
        """Why the grammar cannot be followed further, if that is why no token could be chosen."""
        return None if self._grammar is None else self._grammar.error

    @property
    def prompt_top_logprobs(self) -> int:
        """How many of the most likely tokens are reported for each token of the prompt."""
        return self._params.logprobs or 0

    def add_prompt_logprobs(self, logprobs: TokenIds[RowLogprobs]) -> None:
        """Take the log probabilities of the next tokens of the prompt, the first of which has none."""
        self._prompt_logprobs += logprobs

    def append(self, token_id: int, logprobs: RowLogprobs | None = None) -> tuple[Token, FinishReason | None]:
        """Take the next token; return its event, and why the sequence ends here if it does."""
        self.output_ids.append(token_id)
        if self._seen is not None:
            self._seen.add(token_id)
        text = self._text.push(token_id)
        is_ended = self._text.is_ended
        if self._grammar is not None and not is_ended:
            self._grammar.advance(token_id)
            is_ended = self._grammar.is_finished
        is_last = is_ended or len(self.output_ids) == self._params.max_tokens
        if is_last:
            text += self._text.flush()
        finish_reason: FinishReason | None = (
            "stop" if is_ended or self._text.is_ended else "length" if is_last else None
        )
        report = None if logprobs is None else self._with_text(token_id, logprobs)
        ms, is_first = self._tick()
        parts = self._parts_of(text, is_last)
        return Token(text, token_id, ms, is_first, self._request.index, report, parts), finish_reason

    def _parts_of(self, text: str, is_last: bool) -> tuple[Part, ...] | None:
        """What the answer's text adds to its content, reasoning and tool calls; None if the request wants none."""
        if self._parser is None:
            return None
        parts: tuple[Part, ...] = self._parser.feed(text)
        self._reasoning_tokens += self._parser.is_reasoning
        return (*parts, *self._parser.finish()) if is_last else parts

    def prompt_echo(self) -> PromptEcho | None:
        """Return the event that repeats the prompt, if the request asked for it."""
        if not self._request.echo:
            return None
        prompt = self._request.prompt
        text = prompt.text if isinstance(prompt, TextPrompt) else self._decode(self.prompt_ids)
        tokens = [Logprobs(self._described(token_id, None)) for token_id in self.prompt_ids]
        for place, logprobs in enumerate(self._prompt_logprobs, start=1):
            tokens[place] = self._with_text(self.prompt_ids[place], logprobs)
        return PromptEcho(text, tuple(tokens), self._request.index)

    def _with_text(self, token_id: int, logprobs: RowLogprobs) -> Logprobs:
        chosen = self._described(token_id, logprobs.chosen)
        return Logprobs(chosen, tuple(self._described(*alternative) for alternative in logprobs.top))

    def _described(self, token_id: int, logprob: float | None) -> TokenLogprob:
        return TokenLogprob(
            token_id, self._token_bytes.text_of(token_id), self._token_bytes.bytes_of(token_id), logprob
        )

    def finish(self, reason: FinishReason) -> Finished:
        """Return the terminal event, as of now."""
        now = time.perf_counter()
        admitted = now if self._admitted_at is None else self._admitted_at
        first = now if self._first_token_at is None else self._first_token_at
        last = first if self._last_token_at is None else self._last_token_at
        return Finished(
            finish_reason=reason,
            prompt_tokens=len(self.prompt_ids),
            completion_tokens=len(self.output_ids),
            prefill_ms=1e3 * (first - admitted),
            decode_ms=1e3 * (last - first),
            total_ms=1e3 * (now - self._submitted_at),
            cached_tokens=self._reused_tokens,
            reasoning_tokens=self._reasoning_tokens,
            stop_reason=self._text.stop_reason,
            index=self._request.index,
        )

    def fail(self, message: str) -> Failed:
        """Return the terminal event of a sequence that the engine could not finish."""
        return Failed(message, "engine_error", self._request.index)

    def _tick(self) -> tuple[float, bool]:
        """Milliseconds since the token before (for the first: since admission), and whether it is the first."""
        now = time.perf_counter()
        is_first = self._first_token_at is None
        before = self._admitted_at if is_first else self._last_token_at
        assert before is not None
        if is_first:
            self._first_token_at = now
        self._last_token_at = now
        return 1e3 * (now - before), is_first


def _seen(encoded: EncodedRequest) -> TokenCounts | None:
    """Counts of the tokens that penalties apply to, if there are penalties."""
    params = encoded.params
    if params.repetition_penalty not in (None, 1.0):
        return TokenCounts(encoded.prompt_ids)
    return TokenCounts() if params.presence_penalty or params.frequency_penalty else None

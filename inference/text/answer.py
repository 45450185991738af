"""Makes the events of one sequence from its token ids: the texts, the times, the log probabilities, and the end.

It is the same for all engines that return token ids.
"""

import time
from collections.abc import Mapping, Sequence

from inference.text.detokenizer import Decode
from inference.text.output_text import OutputText
from inference.text.token_bytes import TokenBytes
from interface.events import (
    Failed,
    FailureKind,
    Finished,
    FinishReason,
    Logprobs,
    Part,
    PromptEcho,
    Token,
    TokenLogprob,
)
from interface.requests import ChatPrompt, EncodedRequest, TextPrompt


class Answer:
    """Takes the tokens of one sequence in their order, and says where its text ends.

    Args:
        decode: makes text of token ids.
        ends: the tokens that end the text, each with its `Finished.stop_reason`.
        token_bytes: the bytes of each token.
        hidden_tokens: the texts of the special tokens that `decode` leaves out.
        own_stops: the model's own stop strings. Where there is a grammar, that says where the text ends.
    """

    def __init__(
        self,
        encoded: EncodedRequest,
        decode: Decode,
        ends: Mapping[int, str | int | None],
        token_bytes: TokenBytes,
        hidden_tokens: Mapping[int, str],
        own_stops: Sequence[str] = (),
    ) -> None:
        self._tokens = 0
        self.ends = ends
        self.grammar = None if encoded.grammar is None else encoded.grammar.start()
        """The state of its grammar, if there is one."""
        self._max_tokens = encoded.params.max_tokens
        self._prompt_ids = encoded.prompt_ids
        self._request = encoded.request
        self._decode = decode
        prompt = encoded.request.prompt
        begins = isinstance(prompt, ChatPrompt) and not prompt.continue_final_message
        before = () if begins else encoded.prompt_ids
        own_stops = own_stops if encoded.grammar is None else ()
        self._text = OutputText(decode, ends, encoded.params, hidden_tokens, own_stops, before)
        self._parser = None if encoded.reader is None else encoded.reader.start()
        self._reasoning_tokens = 0
        self._token_bytes = token_bytes
        self._submitted_at = time.perf_counter()
        self._admitted_at: float | None = None
        self._first_token_at: float | None = None
        self._last_token_at: float | None = None

    def admit(self) -> None:
        """Note that the engine begins with the prefill now."""
        self._admitted_at = time.perf_counter()

    def append(
        self, token_id: int, logprobs: Logprobs | None = None, ended: FinishReason | None = None
    ) -> tuple[Token, FinishReason | None]:
        """Add the next token; return its event, and the finish reason if the sequence ends with it.

        The last event has all the text that was held back.

        Args:
            ended: the reason for which the engine has ended the sequence with this token, if it has.
        """
        self._tokens += 1
        text = self._text.push(token_id)
        if self.grammar is not None and not self._text.is_ended:
            self.grammar.advance(token_id)
        is_last = self._is_ended or ended is not None or self._tokens == self._max_tokens
        if is_last:
            text += self._text.flush()  # it may end with a stop string
        ms, is_first = self._tick()
        token = Token(text, token_id, ms, is_first, self._request.index, logprobs, self._parts_of(text, is_last))
        return token, None if not is_last else "stop" if self._is_ended else ended or "length"

    def echo(self, logprobs: Sequence[Logprobs]) -> PromptEcho | None:
        """Return the event that repeats the prompt, if the request asked for it.

        Args:
            logprobs: those of the prompt's tokens, from the second one on, if they are known.
        """
        if not self._request.echo:
            return None
        prompt = self._request.prompt
        text = prompt.text if isinstance(prompt, TextPrompt) else self._decode(self._prompt_ids)
        tokens = [Logprobs(self.describe(token_id, None)) for token_id in self._prompt_ids]
        tokens[1 : 1 + len(logprobs)] = logprobs
        return PromptEcho(text, tuple(tokens), self._request.index)

    def describe(self, token_id: int, logprob: float | None) -> TokenLogprob:
        """Return a token with its text, bytes and log probability."""
        return TokenLogprob(
            token_id, self._token_bytes.text_of(token_id), self._token_bytes.bytes_of(token_id), logprob
        )

    def finish(self, reason: FinishReason, cached_tokens: int = 0) -> Finished:
        """Return the terminal event of the sequence if it ends now."""
        now = time.perf_counter()
        admitted = now if self._admitted_at is None else self._admitted_at
        first = now if self._first_token_at is None else self._first_token_at
        last = first if self._last_token_at is None else self._last_token_at
        return Finished(
            finish_reason=reason,
            prompt_tokens=len(self._prompt_ids),
            completion_tokens=self._tokens,
            prefill_ms=1e3 * (first - admitted),
            decode_ms=1e3 * (last - first),
            total_ms=1e3 * (now - self._submitted_at),
            cached_tokens=cached_tokens,
            reasoning_tokens=self._reasoning_tokens,
            stop_reason=self._text.stop_reason,
            index=self._request.index,
        )

    def fail(self, message: str, kind: FailureKind) -> Failed:
        """Return the terminal event of a sequence that the engine could not finish."""
        return Failed(message, kind, self._request.index)

    @property
    def _is_ended(self) -> bool:
        """Whether the text has ended: with one of its `ends` or a stop string, or because its grammar is complete."""
        return self._text.is_ended or (self.grammar is not None and bool(self.grammar.is_finished))

    def _parts_of(self, text: str, is_last: bool) -> tuple[Part, ...] | None:
        """Return the parts that a text adds; None unless the request asked for its response to be parsed."""
        if self._parser is None:
            return None
        parts: tuple[Part, ...] = self._parser.feed(text)
        self._reasoning_tokens += self._parser.is_reasoning
        return (*parts, *self._parser.finish()) if is_last else parts

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

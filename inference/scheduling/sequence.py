"""One request's state, from its submit to its terminal event: its tokens, its text, its clock."""

import random
import time
from collections.abc import Callable, Collection
from collections.abc import Sequence as Ids

from inference.sampler import Draw
from inference.text.detokenizer import Detokenizer
from inference.text.stop_strings import StopStrings
from interface.request import EncodedRequest, Finished, FinishReason, RequestId, Sink, Token


class Sequence:
    """Prompt and output of one request. The scheduler gives it its slot; nobody else changes it."""

    def __init__(
        self,
        request_id: RequestId,
        encoded: EncodedRequest,
        sink: Sink,
        decode: Callable[[Ids[int]], str],
        eos_ids: Collection[int],
    ) -> None:
        self.request_id = request_id
        self.sink = sink
        self.prompt_ids = encoded.prompt_ids
        self.slot: int | None = None
        self.cached_tokens = 0  # how many of its tokens have their keys and values in the cache
        self._reused_tokens = 0  # how many of them were there when it got its slot
        self.output_ids: list[int] = []
        self._request = encoded.request
        self._eos_ids = () if encoded.request.ignore_eos else eos_ids
        self._detokenizer = Detokenizer(decode)
        self._stop_strings = StopStrings(encoded.request.stop or ())
        self._random = random.Random(encoded.request.seed)
        self._submitted_at = time.perf_counter()
        self._admitted_at: float | None = None
        self._first_token_at: float | None = None
        self._last_token_at: float | None = None

    @property
    def is_prefilled(self) -> bool:
        return self.cached_tokens >= len(self.prompt_ids)

    @property
    def held_ids(self) -> list[int]:
        """The tokens whose keys and values its slot holds."""
        return [*self.prompt_ids, *self.output_ids][: self.cached_tokens]

    def admit(self, slot: int, reused_tokens: int = 0) -> None:
        """Take a slot, which holds the keys and values of the prompt's first `reused_tokens` already."""
        self.slot = slot
        self.cached_tokens = self._reused_tokens = reused_tokens
        self._admitted_at = time.perf_counter()

    def draw(self) -> Draw:
        """How to draw the next token, with a random number of its own."""
        request = self._request
        return Draw(request.temperature, request.top_p, request.top_k, self._random.random())

    def append(self, token_id: int) -> tuple[Token, FinishReason | None]:
        """Take the next token; return its event, and why the request ends here if it does."""
        self.output_ids.append(token_id)
        finish_reason: FinishReason | None = None
        text = self._stop_strings.push(self._detokenizer.push(token_id))
        if token_id in self._eos_ids:
            finish_reason = "stop"
        elif len(self.output_ids) == self._request.max_tokens:
            finish_reason = "length"
        if finish_reason is not None:
            text += self._stop_strings.push(self._detokenizer.flush()) + self._stop_strings.flush()
        if self._stop_strings.found:
            finish_reason = "stop"
        return Token(text, token_id, *self._tick()), finish_reason

    def finish(self, reason: FinishReason) -> Finished:
        """The terminal event, as of now."""
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
        )

    def _tick(self) -> tuple[float, bool]:
        """Milliseconds since the token before (for the first: since the prefill began), and whether it is the first."""
        now = time.perf_counter()
        is_first = self._first_token_at is None
        before = self._admitted_at if is_first else self._last_token_at
        assert before is not None
        if is_first:
            self._first_token_at = now
        self._last_token_at = now
        return 1e3 * (now - before), is_first

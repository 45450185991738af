"""What a generation looks like to those who asked for it plainly: `POST /generate`, and `Engine.generate`.

These classes are the one definition of the answer's fields. The answer is built from them, and the OpenAPI document
is made from them. Fields that are None are left out of the JSON.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from interface.events import Failed, Finished, FinishReason, Logprobs, PromptEcho, Token, TokenLogprob

CachedTokens = Annotated[int, Field(description="Tokens of the prompt that were in the prefix cache.")]


class _Described:
    """Fields that are not listed here are never sent, and the OpenAPI document says so."""

    __slots__ = ()
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True)
class Alternative(_Described):
    """A token that could have been chosen, and its log probability."""

    token: str
    token_id: int
    logprob: float | None


@dataclass(frozen=True, slots=True)
class TokenLogprobs(_Described):
    """The log probability of the chosen token, and the most likely alternatives."""

    logprob: float | None
    top: list[Alternative]


AnswerLogprobs = Annotated[TokenLogprobs | None, Field(description="Only if the request asked for `logprobs`.")]


@dataclass(frozen=True, slots=True)
class Completion(_Described):
    """A whole generation. Times are in milliseconds."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: CachedTokens
    completion_tokens: int
    prefill_time_ms: Annotated[float, Field(description="From admission to a slot to the first token.")]
    decode_time_ms: Annotated[float, Field(description="From the first token to the last.")]
    total_time_ms: Annotated[float, Field(description="From arrival to completion, queueing included.")]
    tokens_per_second: Annotated[float, Field(description="completion_tokens over total_time_ms.")]
    logprobs: Annotated[
        list[TokenLogprobs] | None, Field(description="One entry per token, if the request asked for `logprobs`.")
    ] = None


@dataclass(slots=True)  # not frozen: one is made for every token, and a frozen one takes twice as long
class FirstToken(_Described):
    """The first event of a stream."""

    token: Annotated[str, Field(description="May be empty: half a character is held back until it is complete.")]
    token_id: int
    prefill_time_ms: float
    logprobs: AnswerLogprobs = None


@dataclass(slots=True)
class NextToken(_Described):
    """Each further token of a stream."""

    token: str
    token_id: int
    step_ms: Annotated[float, Field(description="Time since the previous token.")]
    logprobs: AnswerLogprobs = None


@dataclass(frozen=True, slots=True)
class Closing(_Described):
    """The last event of a stream that completed."""

    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: CachedTokens
    completion_tokens: int
    total_time_ms: float


@dataclass(frozen=True, slots=True)
class StreamErrorContent(_Described):
    message: str
    type: Literal["engine_error", "shutdown"]


@dataclass(frozen=True, slots=True)
class StreamError(_Described):
    """The last event of a stream that the service could not finish."""

    error: StreamErrorContent


StreamEvent = FirstToken | NextToken | Closing | StreamError


def stream_event(event: Token | Finished | Failed) -> StreamEvent:
    """Return an engine event as the stream shows it."""
    match event:
        case Token():
            kind = FirstToken if event.is_first else NextToken
            logprobs = None if event.logprobs is None else _logprobs(event.logprobs)
            return kind(event.text, event.token_id, round(event.ms, 3), logprobs)
        case Finished():
            return Closing(
                finish_reason=event.finish_reason,
                prompt_tokens=event.prompt_tokens,
                cached_tokens=event.cached_tokens,
                completion_tokens=event.completion_tokens,
                total_time_ms=round(event.total_ms, 3),
            )
        case Failed():
            return StreamError(StreamErrorContent(event.message, event.kind))


def completion(events: Sequence[PromptEcho | Token | Finished]) -> Completion:
    """Put a whole generation together from all its events, the last of which is `Finished`."""
    tokens = [event for event in events if isinstance(event, Token)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    logprobs = [found for token in tokens if (found := _logprobs(token.logprobs)) is not None]
    return Completion(
        text="".join(token.text for token in tokens),
        token_ids=[token.token_id for token in tokens],
        finish_reason=finished.finish_reason,
        prompt_tokens=finished.prompt_tokens,
        cached_tokens=finished.cached_tokens,
        completion_tokens=finished.completion_tokens,
        prefill_time_ms=round(finished.prefill_ms, 3),
        decode_time_ms=round(finished.decode_ms, 3),
        total_time_ms=round(finished.total_ms, 3),
        tokens_per_second=round(1e3 * finished.completion_tokens / finished.total_ms, 2),
        logprobs=logprobs or None,
    )


def _logprobs(logprobs: Logprobs | None) -> TokenLogprobs | None:
    if logprobs is None:
        return None
    return TokenLogprobs(logprobs.chosen.logprob, [_alternative(token) for token in logprobs.top])


def _alternative(token: TokenLogprob) -> Alternative:
    return Alternative(token.token, token.token_id, token.logprob)

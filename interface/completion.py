"""The answers of `POST /generate` and `Engine.generate`.

The answer is built from these classes, and so is the OpenAPI document. A field that is absent or None is left out of
the JSON.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict  # pydantic cannot read Python's own before 3.12

from interface.events import Failed, FailureKind, Finished, FinishReason, Logprobs, PromptEcho, Token, TokenLogprob

OptionalTokenId = Annotated[
    int | None, Field(description="null where the engine is a server that tells only the text.")
]
CachedTokens = Annotated[int, Field(description="Tokens of the prompt that were in the prefix cache.")]


_described = with_config(extra="forbid", strict=True)
"""Fields that are not listed are never sent, and the OpenAPI document says so."""


@_described
class Alternative(TypedDict):
    """A token that could have been chosen, and its log probability; null for the first token of a prompt."""

    token: str
    token_id: OptionalTokenId
    logprob: float | None


@_described
class TokenLogprobs(TypedDict):
    """The log probability of the chosen token, and the most likely alternatives."""

    logprob: float | None
    top: list[Alternative]


AnswerLogprobs = Annotated[TokenLogprobs, Field(description="Only if the request asked for `logprobs`.")]


@_described
@dataclass(frozen=True, slots=True)
class Completion:
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


@_described
class FirstToken(TypedDict):
    """The first event of a stream."""

    token: Annotated[str, Field(description="May be empty: half a character is held back until it is complete.")]
    token_id: OptionalTokenId
    prefill_time_ms: float
    logprobs: NotRequired[AnswerLogprobs]


@_described
class NextToken(TypedDict):
    """Each further token of a stream."""

    token: str
    token_id: OptionalTokenId
    step_ms: Annotated[float, Field(description="Time since the previous token.")]
    logprobs: NotRequired[AnswerLogprobs]


@_described
class Closing(TypedDict):
    """The last event of a stream that completed."""

    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: CachedTokens
    completion_tokens: int
    total_time_ms: float


@_described
class StreamErrorContent(TypedDict):
    message: str
    type: FailureKind


@_described
class StreamError(TypedDict):
    """The last event of a stream that the service could not finish."""

    error: StreamErrorContent


StreamEvent = FirstToken | NextToken | Closing | StreamError


def stream_event(event: Token | Finished | Failed) -> StreamEvent:
    """Return an engine event as the stream shows it."""
    if isinstance(event, Token):
        return _token(event)
    if isinstance(event, Finished):
        return Closing(
            finish_reason=event.finish_reason,
            prompt_tokens=event.prompt_tokens,
            cached_tokens=event.cached_tokens,
            completion_tokens=event.completion_tokens,
            total_time_ms=round(event.total_ms, 3),
        )
    return StreamError(error={"message": event.message, "type": event.kind})


def _token(token: Token) -> FirstToken | NextToken:
    """Return a token as the stream shows it: a plain dict takes half as long to make and to write as a dataclass."""
    shown: FirstToken | NextToken
    if token.is_first:
        shown = {"token": token.text, "token_id": token.token_id, "prefill_time_ms": round(token.ms, 3)}
    else:
        shown = {"token": token.text, "token_id": token.token_id, "step_ms": round(token.ms, 3)}
    if token.logprobs is not None:
        shown["logprobs"] = _logprobs(token.logprobs)
    return shown


def completion(events: Sequence[PromptEcho | Token | Finished]) -> Completion:
    """Put a whole generation together from all its events, the last of which is `Finished`."""
    tokens = [event for event in events if isinstance(event, Token)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    logprobs = [_logprobs(token.logprobs) for token in tokens if token.logprobs is not None]
    return Completion(
        text="".join(token.text for token in tokens),
        token_ids=[token.token_id for token in tokens if token.token_id is not None],
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


def _logprobs(logprobs: Logprobs) -> TokenLogprobs:
    return {"logprob": logprobs.chosen.logprob, "top": [_alternative(token) for token in logprobs.top]}


def _alternative(token: TokenLogprob) -> Alternative:
    return {"token": token.token, "token_id": token.token_id, "logprob": token.logprob}

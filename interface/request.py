"""What goes into an engine and what comes out of it, for every room of the house; no torch here.

In: a `GenerationRequest`, checked when it is made. Out: for each token a `Token`, and at the end exactly one of
`Finished` and `Failed`. `EngineVerbs` is all that a driver may ask of an engine; the tests' scripted engine offers
the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

FinishReason = Literal["stop", "length", "abort"]
FailureKind = Literal["engine_error", "shutdown"]


LARGEST = 2**63 - 1
"""What fits a 64-bit integer, as every number of a request must."""

StopString = Annotated[str, Field(min_length=1)]
StopStrings = Annotated[list[StopString], Field(max_length=4)]


def _listed(stop: object) -> object:
    """One stop string is a list of one; anything that is not a string is left for the field's own check."""
    return [stop] if isinstance(stop, str) else stop


class GenerationRequest(BaseModel):
    """A prompt and how to continue it.

    Raises:
        pydantic.ValidationError: a value is out of range or of the wrong type, or a field is unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    prompt: str = Field(min_length=1, description="The text to continue.")
    max_tokens: int = Field(default=128, ge=1, le=LARGEST, description="Stop after this many tokens.")
    temperature: float = Field(default=0.7, ge=0, le=2, description="0 always takes the likeliest token (greedy).")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Draw from the likeliest tokens that together reach this."
    )
    top_k: int = Field(
        default=0, ge=0, le=LARGEST, description="Draw from this many of the likeliest tokens; 0 is off."
    )
    seed: int | None = Field(
        default=None, ge=-(2**63), le=LARGEST, description="Makes the draws repeatable; null draws a fresh seed."
    )
    stop: Annotated[
        StopStrings | None, BeforeValidator(_listed, json_schema_input_type=StopString | StopStrings | None)
    ] = Field(default=None, description="A string, or up to 4, at which the text ends; it is not part of the answer.")
    ignore_eos: bool = Field(default=False, description="Go on to max_tokens even if the model ends its text before.")


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A request with its prompt as tokens: known to fit the context, ready to submit."""

    request: GenerationRequest
    prompt_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Token:
    """One token. `ms` is the prefill's time for the first one, else the time since the token before it.

    `text` may be empty: half a character, or what could still become a stop string, is held back for a later token.
    """

    text: str
    token_id: int
    ms: float
    is_first: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a request. Times are in milliseconds; `total_ms` also counts the wait for a slot.

    `cached_tokens` of the prompt needed no prefill: an earlier request had left their keys and values in its slot.
    """

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    prefill_ms: float
    decode_ms: float
    total_ms: float
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The end of a request that the service could not finish."""

    message: str
    kind: FailureKind


Event = Token | Finished | Failed


def payload(event: Event) -> dict[str, Any]:
    """An event as the stream tells it."""
    match event:
        case Token():
            time_name = "prefill_time_ms" if event.is_first else "step_ms"
            return {"token": event.text, "token_id": event.token_id, time_name: round(event.ms, 3)}
        case Finished():
            return {
                "finish_reason": event.finish_reason,
                "prompt_tokens": event.prompt_tokens,
                "cached_tokens": event.cached_tokens,
                "completion_tokens": event.completion_tokens,
                "total_time_ms": round(event.total_ms, 3),
            }
        case Failed():
            return {"error": {"message": event.message, "type": event.kind}}


def answer(tokens: Sequence[Token], finished: Finished) -> dict[str, Any]:
    """A whole generation as one object, for those who do not stream."""
    return {
        "text": "".join(token.text for token in tokens),
        "token_ids": [token.token_id for token in tokens],
        "finish_reason": finished.finish_reason,
        "prompt_tokens": finished.prompt_tokens,
        "cached_tokens": finished.cached_tokens,
        "completion_tokens": finished.completion_tokens,
        "prefill_time_ms": round(finished.prefill_ms, 3),
        "decode_time_ms": round(finished.decode_ms, 3),
        "total_time_ms": round(finished.total_ms, 3),
        "tokens_per_second": round(1e3 * finished.completion_tokens / finished.total_ms, 2),
    }


RequestId = int
Sink = Callable[[Sequence[tuple[RequestId, Event]]], object]
"""Takes the events of one step, for all the requests submitted with it, in one call on the stepping thread."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What an engine is busy with: requests in a slot, requests waiting for one, tokens made since it started."""

    running: int
    waiting: int
    generated_tokens: int


class EngineVerbs(Protocol):
    """What a driver may ask of an engine. Any thread may call any of them; at most one step runs at a time."""

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        """Tokenize; touches no state. Raises PromptTooLong or UnusablePrompt."""

    def submit(self, encoded: EncodedRequest, sink: Sink) -> RequestId:
        """Queue a request, without waiting; its events go to `sink`. Raises QueueFull or EngineFailed."""

    def abort(self, request_id: RequestId) -> None:
        """End a request at the next step, wherever it is; an unknown or ended one is left alone."""

    def step(self) -> bool:
        """Bring every running request one token further; true while there is more to do. Raises EngineFailed."""

    def counters(self) -> Counters: ...


class PromptTooLong(ValueError):
    """The prompt and its max_tokens do not fit the context together."""

    def __init__(self, prompt_tokens: int, max_tokens: int, context: int) -> None:
        self.prompt_tokens, self.max_tokens, self.context = prompt_tokens, max_tokens, context
        super().__init__(
            f"The prompt has {prompt_tokens} tokens and max_tokens is {max_tokens}, together "
            f"{prompt_tokens + max_tokens}; the context holds {context}. Shorten one of them."
        )


class UnusablePrompt(ValueError):
    """The model has no token for the prompt, or none that it knows."""


class QueueFull(RuntimeError):
    """Every slot and every place in the queue is taken."""


class EngineUnavailable(RuntimeError):
    """There is no engine to ask just now: it is loading, or the service is ending."""


class EngineFailed(EngineUnavailable):
    """A step raised; the engine takes no more requests."""


class LoadError(RuntimeError):
    """A model that cannot be served: the user's to mend. The message says what was looked for, and what to do."""


class UnsupportedModel(LoadError):
    """The model does not give the same logits through the slot cache as by itself."""

"""`POST /generate`: the service's own, plain endpoint: a text in, a text out, as a whole or token by token.

Its refusals have FastAPI's shape, `{"detail": [{"type", "loc", "msg", "input"}]}`, which clients already know.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ConfigDict, Field, ValidationError
from pydantic_core import from_json, to_json

from contract.answers import Answer, model_answer
from contract.bodies import show_that_null_is_absent
from contract.endpoints import CALL_REFUSALS, Accepted, Endpoint, Incoming, Writer
from contract.plain import DIALECT, Detail, Problems
from contract.refusals import Problem, Refusal
from contract.requests import shortened
from contract.sse import DONE, HEARTBEAT, frame
from interface.completion import Closing, Completion, FirstToken, NextToken, StreamError, completion, stream_event
from interface.events import Event, Failed, PromptEcho
from interface.requests import GenerationRequest, SamplingParams, TextPrompt

MAX_PROBLEMS = 100


class GenerateBody(SamplingParams):
    """What to generate, and how to answer."""

    model_config = SamplingParams.model_config | ConfigDict(json_schema_extra=show_that_null_is_absent)

    prompt: str = Field(min_length=1, description="The text to continue.")
    stream: bool = Field(default=False, description="Send each token as it is made, as server-sent events.")

    def params(self) -> SamplingParams:
        return SamplingParams.model_construct(**{name: getattr(self, name) for name in SamplingParams.model_fields})


OPTIONAL = {name for name, field in GenerateBody.model_fields.items() if not field.is_required()}


class GenerateWriter:
    """A frame for each token, one to close, and `[DONE]`."""

    def start(self) -> bytes:
        return b""

    def event(self, event: Event) -> bytes:
        return b"" if isinstance(event, PromptEcho) else frame(stream_event(event))

    def silence(self) -> bytes:
        return HEARTBEAT

    def end(self) -> bytes:
        return DONE


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """One sequence, answered plainly."""

    requests: Sequence[GenerationRequest]
    stream: bool

    def writer(self, accepted: Accepted) -> Writer:
        return GenerateWriter()

    def answer(self, accepted: Accepted, events: Sequence[Event]) -> Answer:
        end = events[-1]
        if isinstance(end, Failed):
            return DIALECT.failure(end)
        return model_answer(completion([event for event in events if not isinstance(event, Failed)]))


def parse(incoming: Incoming) -> GenerateCall:
    """Parse and check a body.

    Raises:
        Refusal: 422, with every problem in it (at most `MAX_PROBLEMS`).
    """
    try:
        body = _read(incoming.body)
    except ValidationError as error:
        raise _unprocessable(error) from None
    return GenerateCall([GenerationRequest(TextPrompt(body.prompt), body.params())], body.stream)


def _read(body: bytes) -> GenerateBody:
    """Parse a body, in which null means absent."""
    try:
        return GenerateBody.model_validate_json(body)
    except ValidationError as found:
        error = found
    if b"null" not in body or any(problem["type"] == "json_invalid" for problem in error.errors(include_url=False)):
        raise error
    fields = from_json(body)
    if not isinstance(fields, dict):
        raise error
    given = {name: value for name, value in fields.items() if value is not None or name not in OPTIONAL}
    return GenerateBody.model_validate_json(to_json(given))


def _unprocessable(error: ValidationError) -> Refusal:
    details = error.errors(include_url=False, include_context=False)
    problems = [
        Problem(detail["type"], ["body", *map(shortened, detail["loc"])], detail["msg"], shortened(detail["input"]))
        for detail in details[:MAX_PROBLEMS]
    ]
    if len(details) > MAX_PROBLEMS:
        problems.append(Problem("too_many", ["body"], f"{len(details) - MAX_PROBLEMS} more problems", None))
    return Refusal(422, "The body is not valid", problems=problems)


STREAM_DESCRIPTION = (
    "With `stream: true`: server-sent events. One `data:` line of JSON per token (FirstToken, then NextToken), then "
    "one Closing, or one StreamError in its place, then `data: [DONE]`. Lines that begin with `:` are comments, sent "
    "when nothing else has been for a while."
)
STREAM_EXAMPLE = (
    'data: {"token": "The", "token_id": 311, "prefill_time_ms": 12.3}\n\n'
    'data: {"token": " answer", "token_id": 1234, "step_ms": 4.5}\n\n'
    'data: {"finish_reason": "stop", "prompt_tokens": 8, "cached_tokens": 0, "completion_tokens": 2, '
    '"total_time_ms": 17.1}\n\n'
    "data: [DONE]\n\n"
)

ENDPOINT = Endpoint(
    path="/generate",
    parse=parse,
    summary="Continue a prompt",
    request=GenerateBody,
    answer=Completion,
    stream=(FirstToken, NextToken, Closing, StreamError),
    stream_description=STREAM_DESCRIPTION,
    stream_example=STREAM_EXAMPLE,
    example={"prompt": "What is 2 + 2?", "stream": True},
    refusals=CALL_REFUSALS | {422: "The body is not valid, or the prompt does not fit the context."},
    problems=Problems,
    error=Detail,
)

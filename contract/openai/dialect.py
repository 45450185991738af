"""The errors of the OpenAI API, before a stream starts and in the middle of one.

The statuses decide which exception openai-python raises, and whether it tries again by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from contract.answers import Answer, Wire, model_answer
from contract.refusals import DO_NOT_RETRY, STATUSES, Refusal, failure_headers, overflow_message, retry_headers
from contract.sse import frame
from interface.errors import EngineFailed, EngineUnavailable, PromptTooLong, QueueFull, RequestError, UnusablePrompt
from interface.events import Failed, FailureKind

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
FAILURE_TYPES: Mapping[FailureKind, str] = {
    "engine_error": SERVER_ERROR,
    "shutdown": "service_unavailable_error",
    "unusable_grammar": INVALID_REQUEST,
}


@dataclass(frozen=True, slots=True)
class OpenAIErrorContent(Wire):
    message: str
    type: str
    param: str | None
    code: str | int | None


@dataclass(frozen=True, slots=True)
class OpenAIError(Wire):
    """An error, as the whole answer or as the last event of a stream."""

    error: OpenAIErrorContent


@dataclass(frozen=True, slots=True)
class OpenAIDialect:
    """The refusals of an endpoint. `prompt_field` is the endpoint's name for its prompt."""

    prompt_field: str = "prompt"

    def refusal(self, error: Exception) -> Answer:
        match error:
            case Refusal():
                return _answer(error.status, error.message, INVALID_REQUEST, error.param, error.code, error.headers)
            case PromptTooLong():
                param, code = self.prompt_field, "context_length_exceeded"
                return _answer(400, overflow_message(error), INVALID_REQUEST, param, code)
            case RequestError():
                default = "prompt" if isinstance(error, UnusablePrompt) else None
                return _answer(400, str(error), INVALID_REQUEST, self._param(error.param or default))
            case QueueFull():
                return _answer(503, str(error), "overloaded_error", headers=retry_headers(error))
            case EngineFailed():
                return _answer(500, str(error), SERVER_ERROR, headers=DO_NOT_RETRY)
            case EngineUnavailable():
                return _answer(503, str(error), "service_unavailable_error", headers=retry_headers(error))
        raise TypeError(f"expected one of REFUSALS, got {error!r}")

    def failure(self, failed: Failed) -> Answer:
        type, headers = FAILURE_TYPES[failed.kind], failure_headers(failed)
        return _answer(STATUSES[failed.kind], failed.message, type, headers=headers)

    def internal_error(self) -> Answer:
        return _answer(500, "Internal Server Error", SERVER_ERROR)

    def _param(self, param: str | None) -> str | None:
        """Replace the engine's name for the prompt (`prompt` or `messages`) by the endpoint's; keep a path below it."""
        head, dot, rest = (param or "").partition(".")
        return self.prompt_field + dot + rest if head in ("prompt", "messages") else param


def failure_frame(failed: Failed) -> bytes:
    """The last event of a stream that the service could not finish. Without it, clients would take it for complete."""
    type = INVALID_REQUEST if failed.kind == "unusable_grammar" else SERVER_ERROR
    return frame(OpenAIError(OpenAIErrorContent(failed.message, type, None, STATUSES[failed.kind])))


def _answer(
    status: int,
    message: str,
    type: str,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    return model_answer(OpenAIError(OpenAIErrorContent(message, type, param, code)), status, headers)

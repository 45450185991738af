"""The error shape of Anthropic's API: `{"type": "error", "error": {"type", "message"}, "request_id"}`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from contract.answers import Answer, Wire, to_json
from contract.refusals import DO_NOT_RETRY, STATUSES, Refusal, failure_headers, overflow_message, retry_headers
from interface.errors import EngineFailed, EngineUnavailable, PromptTooLong, QueueFull, RequestError
from interface.events import Failed

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}
"""The error type of a status; every other status has `invalid_request_error`."""


@dataclass(frozen=True, slots=True)
class ErrorContent(Wire):
    type: str
    message: str
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ErrorBody(Wire):
    """An error, as the whole answer or as the last event of a stream."""

    type: Literal["error"]
    error: ErrorContent
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class AnthropicDialect:
    """The refusals of the Messages API."""

    def refusal(self, error: Exception) -> Answer:
        match error:
            case Refusal():
                where = f"{error.param}: " if error.param and not error.message.startswith(error.param) else ""
                return error_answer(error.status, where + error.message, error.headers, error.details)
            case PromptTooLong():
                return error_answer(400, overflow_message(error))
            case RequestError():
                return error_answer(400, str(error))
            case EngineFailed():
                return error_answer(500, str(error), DO_NOT_RETRY)
            case QueueFull() | EngineUnavailable():
                return error_answer(503, str(error), retry_headers(error))
        raise TypeError(f"expected one of REFUSALS, got {error!r}")

    def failure(self, failed: Failed) -> Answer:
        return error_answer(STATUSES[failed.kind], failed.message, failure_headers(failed))

    def internal_error(self) -> Answer:
        return error_answer(500, "Internal server error")


DIALECT = AnthropicDialect()


def error_answer(
    status: int, message: str, headers: dict[str, str] | None = None, details: Mapping[str, Any] | None = None
) -> Answer:
    def body(request_id: str | None = None) -> bytes:
        return to_json(error_body(status, message, request_id, details))

    return Answer(status, body(), headers=headers or {}, body_with_id=body)


def error_body(
    status: int, message: str, request_id: str | None, details: Mapping[str, Any] | None = None
) -> ErrorBody:
    return ErrorBody("error", ErrorContent(TYPES.get(status, "invalid_request_error"), message, details), request_id)

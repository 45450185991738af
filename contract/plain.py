"""The errors of `/generate`, and of every path without a dialect of its own: FastAPI's `{"detail": …}`."""

from collections.abc import Sequence
from dataclasses import dataclass

from contract.answers import Answer, Wire, model_answer
from contract.refusals import DO_NOT_RETRY, STATUSES, Problem, Refusal, failure_headers, retry_headers
from interface.errors import EngineFailed, EngineUnavailable, PromptTooLong, QueueFull, RequestError
from interface.events import Failed


@dataclass(frozen=True, slots=True)
class Problems(Wire):
    """All problems of a request."""

    detail: Sequence[Problem]


@dataclass(frozen=True, slots=True)
class Detail(Wire):
    """The reason of an error."""

    detail: str


class PlainDialect:
    """The dialect of `POST /generate`."""

    def refusal(self, error: Exception) -> Answer:
        match error:
            case Refusal() if error.problems:
                return model_answer(Problems(error.problems), error.status, error.headers)
            case Refusal():
                return model_answer(Detail(error.message), error.status, error.headers)
            case PromptTooLong():
                return _unfit("context_length", str(error), error.prompt_tokens + error.max_tokens)
            case RequestError():
                return _unfit("unusable_prompt", str(error), None)
            case EngineFailed():
                return model_answer(Detail(str(error)), 500, DO_NOT_RETRY)
            case QueueFull() | EngineUnavailable():
                return model_answer(Detail(str(error)), 503, retry_headers(error))
        raise TypeError(f"expected one of REFUSALS, got {error!r}")

    def failure(self, failed: Failed) -> Answer:
        return model_answer(Detail(failed.message), STATUSES[failed.kind], failure_headers(failed))

    def internal_error(self) -> Answer:
        return model_answer(Detail("Internal Server Error"), 500)


DIALECT = PlainDialect()


def _unfit(type: str, message: str, input: int | None) -> Answer:
    return model_answer(Problems([Problem(type, ["body", "prompt"], message, input)]), 422)

"""Why a request is refused, and what its client is told: always before a stream starts, so always as JSON.

Each API has an error shape of its own, its dialect. A client of Anthropic's says so in a header, and gets that shape at
the paths of other APIs too; for all others, the path decides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from pydantic import Field

from contract.answers import Answer, Wire
from interface.errors import EngineUnavailable, PromptTooLong, QueueFull, RequestError
from interface.events import Failed, FailureKind


@dataclass(frozen=True, slots=True)
class Problem(Wire):
    """One problem of a request."""

    type: str
    loc: Sequence[str | int]
    msg: str
    input: Annotated[Any, Field(description="What came; cut if it is long.")]


class Refusal(Exception):
    """A request that is refused before it reaches an engine.

    `problems` lists all problems of a body of `POST /generate`; the other APIs have room for one message only.
    `details` is an addition of the Messages API, for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        problems: Sequence[Problem] = (),
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.problems, self.details = problems, details
        self.headers = dict(headers or {})


REFUSALS: tuple[type[Exception], ...] = (Refusal, RequestError, QueueFull, EngineUnavailable)
"""The exceptions that `Dialect.refusal` answers."""

STATUSES: Mapping[FailureKind, int] = {"engine_error": 500, "shutdown": 503, "unusable_grammar": 400}
"""The statuses of answers that could not be finished, and were not streamed."""

RETRY = {"retry-after": "1"}
DO_NOT_RETRY = {"x-should-retry": "false"}
"""The official clients try again after a 500, unless this header tells them that it would be useless."""


def retry_headers(error: QueueFull | EngineUnavailable) -> dict[str, str]:
    """The headers of an answer to a request that may succeed later: when to send it again."""
    seconds = error.retry_after if isinstance(error, QueueFull) else None
    return RETRY if seconds is None else {"retry-after": str(seconds)}


def failure_headers(failed: Failed) -> dict[str, str] | None:
    """The headers of an answer that could not be finished, and was not streamed."""
    return RETRY if failed.kind == "shutdown" else None


class Dialect(Protocol):
    """The error shape of one API."""

    def refusal(self, error: Exception) -> Answer:
        """Answer a request that one of `REFUSALS` has ended."""

    def failure(self, failed: Failed) -> Answer:
        """Answer a request, not streamed, that the service could not finish."""

    def internal_error(self) -> Answer:
        """Answer after a mistake of the service's own; what it was is in its log."""


@dataclass(slots=True)
class _Dialects:
    """The dialect of each path: that of the longest matching prefix. The empty prefix matches all paths."""

    by_prefix: dict[str, Dialect] = field(default_factory=dict)
    anthropic: Dialect = field(init=False)
    """That of Anthropic's clients, wherever they ask."""

    def of(self, path: str) -> Dialect:
        return self.by_prefix[max((prefix for prefix in self.by_prefix if _begins(path, prefix)), key=len)]


def _begins(path: str, prefix: str) -> bool:
    return not prefix or path == prefix or path.startswith(prefix + "/")


DIALECTS = _Dialects()
"""Filled by `contract.table`."""


def dialect(path: str, anthropic_version: str | None = None) -> Dialect:
    """The error shape that a client expects.

    Args:
        path: where it asks.
        anthropic_version: its header of this name, which all clients of Anthropic's send, and no others.
    """
    return DIALECTS.of(path) if anthropic_version is None else DIALECTS.anthropic


def no_such_method(allowed: Iterable[str]) -> Refusal:
    return Refusal(405, "Method Not Allowed", headers={"allow": ", ".join(sorted(allowed))})


def overflow_message(error: PromptTooLong) -> str:
    """A message that clients recognize as a context overflow: LiteLLM, LangChain and pydantic-ai look for its words."""
    answer = f" and max_tokens is {error.max_tokens}" if error.max_tokens > 1 else ""
    return (
        f"prompt is too long: {error.length} tokens{answer}. "
        f"This model's maximum context length is {error.context} tokens. Shorten the prompt."
    )

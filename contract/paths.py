"""The refusal of a path that does not exist. Usually a client's base URL has a `/v1` too many or too few."""

from difflib import get_close_matches

from contract.health import REPORTS
from contract.refusals import Refusal
from contract.table import ENDPOINTS

VERSION_PREFIX = "/v1"
KNOWN = (*(endpoint.path for endpoint in ENDPOINTS if "{" not in endpoint.path), *REPORTS, "/docs")
ABSENT = {
    "/v1/messages/batches": "This server makes no batches. Send each request to /v1/messages",
    "/v1/batches": "This server makes no batches. Send each request to its own path",
    "/v1/files": "This server keeps no files. Send their text in the request",
    "/v1/embeddings": "This server generates text, and makes no embeddings",
    "/v1/images": "This server generates text, and makes no images",
    "/v1/videos": "This server generates text, and makes no videos",
    "/v1/audio": "This server generates text, and neither speaks nor listens",
    "/v1/realtime": "This server generates text, and neither speaks nor listens",
    "/v1/moderations": "This server moderates nothing",
    "/v1/vector_stores": "This server searches nothing. Send the text of what was found in the request",
    "/v1/assistants": "This API is older than responses. Use /v1/responses",
    "/v1/threads": "This API is older than conversations. Use /v1/conversations and /v1/responses",
    "/v1/fine_tuning": "This server trains no models",
    "/v1/containers": "This server runs no containers",
    "/v1/skills": "This server runs no containers, and so no skills. Send their text in the request",
    "/v1/agents": "This server runs no agents. Send each request to /v1/messages",
    "/v1/sessions": "This server runs no agents. Send each request to /v1/messages",
    "/v1/complete": "This API is older than the Messages API. Use /v1/messages",
}
"""For the beginnings of paths that OpenAI and Anthropic serve and this server does not: what to do instead."""


def no_such_path(path: str) -> Refusal:
    hint = _question(_same_ending(path)) or _advice(path) or _question(_nearly_the_same(path))
    return Refusal(404, "Not Found" + hint)


def _question(known: str | None) -> str:
    return "" if known is None else f". Did you mean {known}?"


def _advice(path: str) -> str:
    return next((f". {advice}" for beginning, advice in ABSENT.items() if path.startswith(beginning)), "")


def _same_ending(path: str) -> str | None:
    """The longest known path that is the end of an unknown one: for `/chat/completions`, `/v1/chat/completions`."""
    ending = "/" + path.strip("/")
    ends = [known for known in KNOWN if ending.endswith(known.removeprefix(VERSION_PREFIX))]
    return max(ends, key=len, default=None)


def _nearly_the_same(path: str) -> str | None:
    """The known path from which a misspelt one differs in a character or two."""
    return next(iter(get_close_matches(path, KNOWN, n=1, cutoff=0.85)), None)

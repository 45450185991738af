"""Requests and answers over HTTP, as bytes and JSON, for all doors.

A door passes a body in and gets something to generate, or a refusal; it passes events in and gets bytes to send.
Nothing here depends on a server, a framework, threads or an event loop.

`ENDPOINTS` is the table of all endpoints. To add one, write a module that makes an `Endpoint`, and give it a row; no
door changes. The modules, by topic:

    an endpoint     `endpoints` says what one is, `table` lists all, `routing` finds that of a path
    endpoints       `generate`, `tokens`, and those of `openai` and `anthropic`
    other paths     `health`, `pages`, `openapi`; `paths` refuses unknown ones, and suggests what was meant
    requests        `requests` (head and size), `parsing` (text, parts), `bodies` and `queries` (fields)
    conversations   `conversation`, `content`, `media` (what is left out of large bodies), `tools`, `grammars`,
                    `summaries`, `opaque`
    answers         `answers` (whole), `sse` (streams), `refusals`, whose shapes are those of `plain` or of an API
"""

from contract.answers import Answer, json_answer
from contract.endpoints import Accepted, Call, Endpoint, Incoming, Question, Writer
from contract.health import REPORTS
from contract.openapi import openapi_document
from contract.pages import PAGES, page
from contract.paths import no_such_path
from contract.refusals import REFUSALS, Dialect, Refusal, dialect, no_such_method
from contract.requests import (
    MAX_BODY_BYTES,
    MAX_TEXT_BYTES,
    announced_bytes,
    body_too_large,
    body_too_slow,
    check_head,
    check_media_type,
    length_required,
    request_id,
    route_path,
)
from contract.routing import endpoints_at, parse
from contract.sse import blocks, frames, stream_headers
from contract.table import ENDPOINTS

__all__ = [
    "ENDPOINTS",
    "MAX_BODY_BYTES",
    "MAX_TEXT_BYTES",
    "PAGES",
    "REFUSALS",
    "REPORTS",
    "Accepted",
    "Answer",
    "Call",
    "Dialect",
    "Endpoint",
    "Incoming",
    "Question",
    "Refusal",
    "Writer",
    "announced_bytes",
    "blocks",
    "body_too_large",
    "body_too_slow",
    "check_head",
    "check_media_type",
    "dialect",
    "endpoints_at",
    "frames",
    "json_answer",
    "length_required",
    "no_such_method",
    "no_such_path",
    "openapi_document",
    "page",
    "parse",
    "request_id",
    "route_path",
    "stream_headers",
]

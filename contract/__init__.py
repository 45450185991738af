"""What a request may say and what an answer looks like, in bytes and JSON, for every door alike.

A door hands over a body and gets a request or a refusal; it hands over events and gets frames; it hands over a result
and gets an `Answer`: status, headers, body. Nothing here knows a server, a framework or a thread.
"""

from contract.answers import Answer, completion, health, internal_error, json_answer, no_such_method, no_such_path
from contract.openapi import openapi_document
from contract.pages import PAGES, page
from contract.refusals import REFUSALS, Refusal, refusal
from contract.requests import MAX_BODY_BYTES, GenerateBody, body_too_large, check_media_type, parse_generate, request_id
from contract.sse import SSE_HEADERS, SSE_MEDIA_TYPE, sse_frames

__all__ = [
    "MAX_BODY_BYTES",
    "PAGES",
    "REFUSALS",
    "SSE_HEADERS",
    "SSE_MEDIA_TYPE",
    "Answer",
    "GenerateBody",
    "Refusal",
    "body_too_large",
    "check_media_type",
    "completion",
    "health",
    "internal_error",
    "json_answer",
    "no_such_method",
    "no_such_path",
    "openapi_document",
    "page",
    "parse_generate",
    "refusal",
    "request_id",
    "sse_frames",
]

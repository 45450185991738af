"""The OpenAPI document, made from the models that check the requests, and a page that shows it without a network.

The models below only describe answers; the answers themselves are built as plain dicts. A test holds the two
together: it checks what the doors really send against this document.

Source: OpenAPI Specification 3.1.1.
"""

import functools
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from contract.answers import Answer, json_answer
from contract.requests import GenerateBody
from contract.sse import SSE_MEDIA_TYPE


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Completion(_Described):
    """A whole generation. Times are in milliseconds."""

    text: str
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    cached_tokens: int = Field(description="Tokens of the prompt that an earlier request had left in the cache.")
    completion_tokens: int
    prefill_time_ms: float = Field(description="From getting a slot to the first token.")
    decode_time_ms: float = Field(description="From the first token to the last.")
    total_time_ms: float = Field(description="From the request's coming to its end, the wait for a slot included.")
    tokens_per_second: float = Field(description="completion_tokens over total_time_ms.")


class FirstToken(_Described):
    """The first event of a stream."""

    token: str = Field(description="May be empty: half a character is held back until the rest of it has come.")
    token_id: int
    prefill_time_ms: float


class NextToken(_Described):
    """Each further token of a stream."""

    token: str
    token_id: int
    step_ms: float = Field(description="Since the token before it.")


class Closing(_Described):
    """The last event of a stream that went well."""

    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    cached_tokens: int = Field(description="Tokens of the prompt that an earlier request had left in the cache.")
    completion_tokens: int
    total_time_ms: float


class StreamErrorContent(_Described):
    message: str
    type: Literal["engine_error", "shutdown"]


class StreamError(_Described):
    """The last event of a stream that the service could not finish."""

    error: StreamErrorContent


class Health(_Described):
    """How the service is."""

    status: str = Field(description='"ok", or the reason why it takes no requests.')
    model: str
    running: int = Field(description="Requests that hold a slot.")
    waiting: int = Field(description="Requests that wait for one.")
    generated_tokens: int = Field(description="Tokens made since the start.")


class Problem(_Described):
    """One thing that is wrong with a request."""

    type: str
    loc: list[str | int]
    msg: str
    input: Any = Field(description="What came; cut if it is long.")


class Problems(_Described):
    """All that is wrong with a request."""

    detail: list[Problem]


class Detail(_Described):
    """Why there is no other answer."""

    detail: str


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


def _response(description: str, model: type[BaseModel] | None, headers: dict[str, str] | None = None) -> dict[str, Any]:
    described = {"X-Request-Id": "The client's own if it sent a sane one, else a new one."} | (headers or {})
    response: dict[str, Any] = {
        "description": description,
        "headers": {
            name: {"description": text, "required": True, "schema": {"type": "string"}}
            for name, text in described.items()
        },
    }
    if model is not None:
        response["content"] = {"application/json": {"schema": _reference(model)}}
    return response


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


@functools.cache
def _document() -> dict[str, Any]:
    events = (FirstToken, NextToken, Closing, StreamError)
    models = (GenerateBody, Completion, *events, Health, Problems, Detail)
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    stream = {
        "schema": {"type": "string", "description": STREAM_DESCRIPTION},
        "example": STREAM_EXAMPLE,
        "x-event-schema": {"anyOf": [_reference(event) for event in events]},
    }
    generated = _response("The generated text, whole or as a stream.", Completion)
    generated["content"][SSE_MEDIA_TYPE.partition(";")[0]] = stream
    request_id = {
        "name": "X-Request-Id",
        "in": "header",
        "required": False,
        "description": "Comes back in the answer and stands in the log. Letters, digits and ._:- only, at most 128.",
        "schema": {"type": "string"},
    }
    retry = {"Retry-After": "Seconds to wait before the next try."}
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Token by token",
            "version": "1.0",
            "description": "A language model whose tokens reach the client as they are made.",
        },
        "paths": {
            "/generate": {
                "post": {
                    "operationId": "generate",
                    "summary": "Continue a prompt",
                    "parameters": [request_id],
                    "requestBody": {
                        "required": True,
                        "content": {
                            "application/json": {
                                "schema": _reference(GenerateBody),
                                "example": {"prompt": "What is 2 + 2?", "stream": True},
                            }
                        },
                    },
                    "responses": {
                        "200": generated,
                        "413": _response("The body is too large.", Detail),
                        "415": _response("The body does not call itself JSON.", Detail),
                        "422": _response("The body is not valid, or the prompt does not fit the context.", Problems),
                        "500": _response("The engine failed on the way.", Detail),
                        "503": _response("No engine, or no place in its queue, just now.", Detail, retry),
                    },
                }
            },
            "/health": {
                "get": {
                    "operationId": "health",
                    "summary": "How the service is",
                    "parameters": [request_id],
                    "responses": {
                        "200": _response("It takes requests.", Health),
                        "503": _response("It takes none; `status` says why.", Health),
                    },
                }
            },
            "/openapi.json": {
                "get": {
                    "operationId": "openapi",
                    "summary": "This document",
                    "responses": {
                        "200": _response("An OpenAPI document.", None)
                        | {"content": {"application/json": {"schema": {"type": "object"}}}}
                    },
                }
            },
            "/docs": {
                "get": {
                    "operationId": "docs",
                    "summary": "This document, as a page to read and try",
                    "responses": {
                        "200": _response("A page.", None) | {"content": {"text/html": {"schema": {"type": "string"}}}}
                    },
                }
            },
        },
        "components": {"schemas": definitions["$defs"]},
    }


@functools.cache
def openapi_document() -> Answer:
    return json_answer(200, _document())

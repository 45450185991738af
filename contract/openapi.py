"""The OpenAPI document, made from the table of endpoints and the types that their answers are built from.

Source: OpenAPI Specification 3.2.0, whose `itemSchema` describes one event of a stream.
"""

import functools
from typing import Any

from pydantic import TypeAdapter

from contract.answers import Answer, json_answer
from contract.endpoints import Endpoint
from contract.health import METRICS_MEDIA_TYPE, Health, Live
from contract.sse import SSE_MEDIA_TYPE
from contract.table import ENDPOINTS

REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "required": False,
    "description": "Comes back in the answer and stands in the log. Letters, digits and ._:- only, at most 128.",
    "schema": {"type": "string"},
}
REQUEST_ID_ECHO = {"X-Request-Id": "Echoes the client's X-Request-Id if valid; otherwise generated."}
RETRY_AFTER = {"Retry-After": "Seconds to wait before the next try."}
JSON = "application/json"


@functools.lru_cache(maxsize=8)
def openapi_document(root_path: str = "") -> Answer:
    """The document for a service whose paths begin with `root_path` for its clients."""
    servers = {"servers": [{"url": root_path}]} if root_path else {}
    return json_answer(200, _document() | servers)


def _document() -> dict[str, Any]:
    return {
        "openapi": "3.2.0",
        "info": {
            "title": "Token by token",
            "version": "1.0",
            "description": "A language model whose tokens reach the client as they are made.",
        },
        "paths": _endpoint_paths() | _other_paths(),
        "components": {"schemas": _schemas()},
    }


def _schemas() -> dict[str, Any]:
    types: list[Any] = [Health, Live]
    for endpoint in ENDPOINTS:
        types += [endpoint.request, endpoint.answer, *endpoint.stream, endpoint.problems, endpoint.error]
    adapters = [TypeAdapter(type) for type in dict.fromkeys(types) if type is not None]
    _, definitions = TypeAdapter.json_schemas(
        [(number, "validation", adapter) for number, adapter in enumerate(adapters)],
        ref_template="#/components/schemas/{model}",
    )
    schemas: dict[str, Any] = definitions["$defs"]
    return schemas


def _endpoint_paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        path = endpoint.path + ("/{name}" if endpoint.takes_rest else "")
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint)
    return paths


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [REQUEST_ID]
    if endpoint.takes_rest:
        parameters.append({"name": "name", "in": "path", "required": True, "schema": {"type": "string"}})
    operation: dict[str, Any] = {
        "operationId": endpoint.path.strip("/").replace("/", "_") + "_name" * endpoint.takes_rest,
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": {
            "200": _answer(endpoint),
            **{str(status): _refusal(endpoint, status) for status in endpoint.refusals},
        },
    }
    if endpoint.request is not None:
        schema = {"schema": _reference(endpoint.request), "example": endpoint.example}
        operation["requestBody"] = {"required": True, "content": {JSON: schema}}
    return operation


def _answer(endpoint: Endpoint) -> dict[str, Any]:
    description = "The answer, whole or as a stream." if endpoint.stream else "The answer."
    answer = _response(description, endpoint.answer)
    if endpoint.stream:
        answer["content"][SSE_MEDIA_TYPE.partition(";")[0]] = {
            "schema": {"type": "string", "description": endpoint.stream_description},
            "example": endpoint.stream_example,
            "itemSchema": _event_schema(endpoint),
        }
    return answer


def _event_schema(endpoint: Endpoint) -> dict[str, Any]:
    """One event as the specification sees it: an object of its fields, the data of which is JSON in a string."""
    content = {"anyOf": [_reference(event) for event in endpoint.stream]}
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": content}
    return {"type": "object", "properties": {"event": {"type": "string"}, "data": data}, "required": ["data"]}


def _refusal(endpoint: Endpoint, status: int) -> dict[str, Any]:
    type = endpoint.problems if status == 422 else endpoint.error
    return _response(endpoint.refusals[status], type, RETRY_AFTER if status == 503 else None)


def _other_paths() -> dict[str, Any]:
    return {
        "/health": {
            "get": {
                "operationId": "health",
                "summary": "Whether the service takes requests",
                "parameters": [REQUEST_ID],
                "responses": {
                    "200": _response("It takes requests.", Health),
                    "503": _response("It takes none; `status` says why.", Health),
                },
            }
        },
        "/live": {
            "get": {
                "operationId": "live",
                "summary": "Whether the process is worth keeping",
                "parameters": [REQUEST_ID],
                "responses": {
                    "200": _response("Nothing has failed for good.", Live),
                    "503": _response("Something has, and only a restart can help; `status` says what.", Live),
                },
            }
        },
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Counters and histograms, in the text format of Prometheus",
                "responses": {
                    "200": _response("The metrics.", None)
                    | {"content": {METRICS_MEDIA_TYPE.partition(";")[0]: {"schema": {"type": "string"}}}}
                },
            }
        },
        "/openapi.json": {
            "get": {
                "operationId": "openapi",
                "summary": "This document",
                "responses": {
                    "200": _response("An OpenAPI document.", None) | {"content": {JSON: {"schema": {"type": "object"}}}}
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
    }


def _response(description: str, type: Any, headers: dict[str, str] | None = None) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": description,
        "headers": {
            name: {"description": text, "required": True, "schema": {"type": "string"}}
            for name, text in (REQUEST_ID_ECHO | (headers or {})).items()
        },
    }
    if type is not None:
        response["content"] = {JSON: {"schema": _reference(type)}}
    return response


def _reference(type: Any) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{type.__name__}"}

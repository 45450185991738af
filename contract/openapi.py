"""The OpenAPI document, made from the table of endpoints and the types that their answers are built from.

Source: OpenAPI Specification 3.2.0, whose `itemSchema` describes one event of a stream.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from contract.answers import Answer, json_answer
from contract.endpoints import Endpoint
from contract.health import METRICS_MEDIA_TYPE, Health, Live
from contract.plain import Detail
from contract.sse import DONE, SSE_MEDIA_TYPE
from contract.table import ENDPOINTS

REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "required": False,
    "description": "Comes back in the answer and stands in the log. Letters, digits and ._:- only, at most 128.",
    "schema": {"type": "string"},
}
REQUEST_ID_ECHO = {
    "X-Request-Id": "Echoes the client's X-Request-Id if valid; otherwise generated.",
    "Request-Id": "The same, where Anthropic's clients look for it.",
}
RETRY_AFTER = {"Retry-After": "Seconds to wait before the next try."}
HEADERS = {
    401: {"WWW-Authenticate": "`Bearer`."},
    405: {"Allow": "The methods that there are."},
    429: RETRY_AFTER,
    503: RETRY_AFTER,
}
"""The headers of a refusal, by its status."""
GUARDED = {
    401: "No API key, or a wrong one; only where the server has keys.",
    429: "More at once, or more tokens a minute, than the server gives one client.",
}
"""Refusals of every path that asks for a key."""
EVERYWHERE = {421: "The Host header has a name that is not the server's."}
TOO_SLOW = {408: "The body took too long to come."}
JSON = "application/json"
SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}
"""Either will do, and neither is needed where the server has no keys."""


def openapi_document(
    version: str, root_path: str = "", sampling_defaults: Mapping[str, float] = MappingProxyType({})
) -> Answer:
    """Return the document.

    Args:
        version: the service's own.
        root_path: what its paths begin with for its clients.
        sampling_defaults: the model's own defaults for sampling parameters.
    """
    return _answer_for(version, root_path, tuple(sampling_defaults.items()))


@functools.lru_cache(maxsize=8)
def _answer_for(version: str, root_path: str, sampling_defaults: tuple[tuple[str, float], ...]) -> Answer:
    servers = {"servers": [{"url": root_path}]} if root_path else {}
    return json_answer(200, _document(version, dict(sampling_defaults)) | servers)


def _document(version: str, sampling_defaults: Mapping[str, float]) -> dict[str, Any]:
    return {
        "openapi": "3.2.0",
        "info": {
            "title": "Token by token",
            "version": version,
            "description": "A language model whose tokens reach the client as they are made.",
        },
        "paths": _endpoint_paths() | _other_paths(),
        "components": {"schemas": _schemas(sampling_defaults), "securitySchemes": SECURITY_SCHEMES},
        "security": [{}, *({name: []} for name in SECURITY_SCHEMES)],
    }


def _schemas(sampling_defaults: Mapping[str, float]) -> dict[str, Any]:
    types: list[Any] = [Health, Live, Detail]
    for endpoint in ENDPOINTS:
        types += [endpoint.request, endpoint.answer, *endpoint.stream, endpoint.problems, endpoint.error]
    adapters = [TypeAdapter(type) for type in dict.fromkeys(types) if type is not None]
    _, definitions = TypeAdapter.json_schemas(
        [(number, "validation", adapter) for number, adapter in enumerate(adapters)],
        ref_template="#/components/schemas/{model}",
    )
    schemas: dict[str, Any] = definitions["$defs"]
    for body in {endpoint.request.__name__ for endpoint in ENDPOINTS if endpoint.request is not None}:
        fields = schemas[body]["properties"]
        for name in fields.keys() & sampling_defaults.keys():
            fields[name]["default"] = sampling_defaults[name]
    return schemas


def _endpoint_paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.openapi_path, {})[endpoint.method.lower()] = _operation(endpoint)
    return paths


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [REQUEST_ID, *_query_parameters(endpoint)]
    for name in re.findall(r"\{(\w+)\}", endpoint.openapi_path):
        parameters.append({"name": name, "in": "path", "required": True, "schema": {"type": "string"}})
    is_first = endpoint == next(other for other in ENDPOINTS if other.path == endpoint.path)
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", endpoint.openapi_path).strip("_")
        + ("" if is_first else f"_{endpoint.method.lower()}"),
        "summary": endpoint.summary,
        "parameters": parameters,
        "responses": ({} if endpoint.answer is None else {"200": _answer(endpoint)}) | _refusals(endpoint),
    }
    if endpoint.request is not None:
        schema = {"schema": _reference(endpoint.request), "example": endpoint.example}
        operation["requestBody"] = {"required": True, "content": {JSON: schema}}
    return operation


def _query_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    if endpoint.query is None:
        return []
    fields = TypeAdapter(endpoint.query).json_schema()["properties"]
    return [_query_parameter(name, field) for name, field in fields.items()]


def _query_parameter(name: str, field: dict[str, Any]) -> dict[str, Any]:
    style = {"style": "deepObject", "explode": True} if field.get("type") == "object" else {}
    described = {"description": field.pop("description", ""), "required": False}
    return {"name": name, "in": "query", **described, **style, "schema": field}


def _answer(endpoint: Endpoint) -> dict[str, Any]:
    description = "The answer, whole or as a stream." if endpoint.stream else "The answer."
    answer = _response(description, _content(endpoint.answer))
    if endpoint.stream:
        answer["content"][_bare(SSE_MEDIA_TYPE)] = {
            "example": endpoint.stream_example,
            "itemSchema": _event_schema(endpoint),
        }
    return answer


def _event_schema(endpoint: Endpoint) -> dict[str, Any]:
    """One event as the specification sees it: an object of its fields, the data of which is JSON in a string."""
    content = {"anyOf": [_reference(event) for event in endpoint.stream]}
    data = [{"contentMediaType": JSON, "contentSchema": content}]
    if endpoint.stream_example.endswith(DONE.decode()):
        data.append({"const": "[DONE]"})
    return {
        "type": "object",
        "description": endpoint.stream_description,
        "properties": {"event": {"type": "string"}, "data": {"type": "string", "anyOf": data}},
        "required": ["data"],
    }


def _refusals(endpoint: Endpoint) -> dict[str, Any]:
    meanings = endpoint.refusals | GUARDED | EVERYWHERE | (TOO_SLOW if endpoint.request is not None else {})
    return {
        str(status): _refusal(meanings[status], status, endpoint.problems if status == 422 else endpoint.error)
        for status in sorted(meanings)
    }


def _refusal(meaning: str, status: int, type: Any) -> dict[str, Any]:
    return _response(meaning, _content(type), HEADERS.get(status))


# --- Paths that are not endpoints -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _OtherPath:
    """A path that takes no input. `answers` has, for each status, its meaning and its content.

    The content is the type of its JSON, or else its media type.
    """

    summary: str
    answers: dict[int, tuple[str, Any]]
    is_guarded: bool = False


OTHER_PATHS = {
    "/health": _OtherPath(
        "Readiness: whether the service takes requests",
        {200: ("It takes requests.", Health), 503: ("It takes none; `status` says why.", Health)},
    ),
    "/live": _OtherPath(
        "Liveness: whether the process works, or needs a restart",
        {
            200: ("Nothing has failed for good.", Live),
            503: ("Something has, and only a restart can help; `status` says what.", Live),
        },
    ),
    "/metrics": _OtherPath(
        "Counters and histograms, in the text format of Prometheus",
        {200: ("The metrics.", METRICS_MEDIA_TYPE)},
        is_guarded=True,
    ),
    "/openapi.json": _OtherPath("This document", {200: ("An OpenAPI document.", dict)}, is_guarded=True),
    "/docs": _OtherPath("This document, as a page to read and try", {200: ("A page.", "text/html")}),
}


def _other_paths() -> dict[str, Any]:
    return {path: {"get": _other_path(path, described)} for path, described in OTHER_PATHS.items()}


def _other_path(path: str, other: _OtherPath) -> dict[str, Any]:
    refusals = EVERYWHERE | (GUARDED if other.is_guarded else {})
    return {
        "operationId": path.strip("/").partition(".")[0],
        "summary": other.summary,
        "parameters": [REQUEST_ID],
        "responses": {
            **{str(status): _response(meaning, _content(type)) for status, (meaning, type) in other.answers.items()},
            **{str(status): _refusal(meaning, status, Detail) for status, meaning in sorted(refusals.items())},
        },
    }


def _response(description: str, content: dict[str, Any], headers: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {
            name: {"description": text, "required": True, "schema": {"type": "string"}}
            for name, text in (REQUEST_ID_ECHO | (headers or {})).items()
        },
        "content": content,
    }


def _content(type: Any) -> dict[str, Any]:
    """The content of an answer that is JSON of a type, or text of a media type."""
    if isinstance(type, str):
        return {_bare(type): {"schema": {"type": "string"}}}
    return {JSON: {"schema": {"type": "object"} if type is dict else _reference(type)}}


def _reference(type: Any) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{type.__name__}"}


def _bare(media_type: str) -> str:
    return media_type.partition(";")[0]

"""Compares what the doors answer with what the OpenAPI document says."""

import json
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

import contract
from config import VERSION
from tests.support.asgi_client import Response, events_of

DOCUMENT: dict[str, Any] = json.loads(contract.openapi_document(VERSION).body)


def check(instance: Any, schema: dict[str, Any]) -> None:
    """Raise if an instance does not match one of the document's schemas."""
    Draft202012Validator(schema | {"components": DOCUMENT["components"]}).validate(instance)


def described(path: str, method: str, response: Response) -> dict[str, Any]:
    """The document's description of an answer's content, by media type; required headers must be there."""
    answer = DOCUMENT["paths"][path][method]["responses"][str(response.status)]
    for name, header in answer.get("headers", {}).items():
        if header["required"]:
            assert name.lower() in response.headers, f"{name} of {path} {response.status}"
    content: dict[str, Any] = answer["content"]
    return content


def event_schema(content: dict[str, Any]) -> dict[str, Any]:
    """The schema of one event of a stream."""
    schema: dict[str, Any] = content["itemSchema"]["properties"]["data"]["anyOf"][0]["contentSchema"]
    return schema


def check_response(path: str, method: str, response: Response) -> None:
    """Status, headers, media type and body of an answer, against the document."""
    media_type = response.headers["content-type"].partition(";")[0]
    content = described(path, method, response)[media_type]
    if media_type == "application/json":
        check(response.json(), content["schema"])
    elif media_type == "text/event-stream":
        for event in events_of(response.body):
            check(event, event_schema(content))
    else:
        check(response.body.decode(), content["schema"])

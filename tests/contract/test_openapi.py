"""The OpenAPI document is valid, and the doors' real answers are as it describes them."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from jsonschema.exceptions import ValidationError  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV32SpecValidator

import contract
from config import Config
from contract import generate
from interface.engine import ModelInfo
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import JSON, events_of, lifespan, until
from tests.support.openapi import DOCUMENT, check, check_response, event_schema
from tests.support.serving import Door, assemble, by_hand
from tests.support.wrong_bodies import WRONG_BODIES, WrongBody
from tests.support.wsgi_client import pulled_by_hand

pytestmark = pytest.mark.anyio

OPERATIONS = [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]


def schemas_in(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from schemas_in(item)


def test_the_document_is_valid() -> None:
    OpenAPIV32SpecValidator(DOCUMENT).validate()


def test_every_schema_is_used_and_every_reference_leads_somewhere() -> None:
    used = set(schemas_in(DOCUMENT))
    assert used == {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}


def test_no_schema_is_named_by_its_module() -> None:
    """As pydantic names two models of one name."""
    assert [name for name in DOCUMENT["components"]["schemas"] if "__" in name] == []


async def test_both_doors_serve_the_document(door: Door) -> None:
    async with by_hand(door) as service:
        response = await service.client.request("GET", "/openapi.json")
    assert response.json() == DOCUMENT
    check_response("/openapi.json", "get", response)


async def test_every_door_tells_the_sampling_defaults_of_the_model(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = {"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.05}
    monkeypatch.setattr(ScriptedEngine, "info", property(lambda self: ModelInfo(100, 1000, {}, defaults)))
    async with by_hand(door) as service:
        response = await service.client.request("GET", "/openapi.json")
    with pulled_by_hand() as other:
        assert other.request("GET", "/openapi.json").body == response.body
    schemas, plain = response.json()["components"]["schemas"], DOCUMENT["components"]["schemas"]
    for body in ("GenerateBody", "ChatBody", "CompletionBody", "ResponsesBody", "MessagesBody"):
        found = {
            name: schemas[body]["properties"][name]["default"]
            for name in defaults
            if name in schemas[body]["properties"]
        }
        assert found == {name: value for name, value in defaults.items() if name in schemas[body]["properties"]}
        assert schemas[body]["properties"]["top_p"] == plain[body]["properties"]["top_p"]
    assert schemas["ResponseObject"] == plain["ResponseObject"], "an answer has what was used"
    OpenAPIV32SpecValidator(response.json()).validate()


async def test_the_document_lists_the_paths_and_methods_that_the_doors_serve(door: Door) -> None:
    """HEAD goes with GET and is not listed; the other pages for people are not part of the interface."""
    paths = {path: {"get": None} for path in contract.PAGES} | DOCUMENT["paths"]
    async with by_hand(door) as service:
        for path in paths:
            served = set()
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
                real_path = path.replace("{name}", service.driver.models[0])
                response = await service.client.request(method, real_path)
                assert b"Not Found" not in response.body, (method, path)
                if response.status != 405:
                    served.add(method.lower())
            assert ("head" in served) == ("get" in served)
            assert served - {"head"} == {*paths[path]}, path


def test_the_doors_have_no_other_paths() -> None:
    import app
    import raw_asgi

    documented = {*DOCUMENT["paths"], *contract.PAGES}
    endpoints = {endpoint.openapi_path for endpoint in contract.ENDPOINTS}
    assert {route.path.replace("{name:path}", "{name}") for route in app.ROUTES} == documented
    assert {*raw_asgi.ROUTES, *endpoints} == documented


@pytest.mark.parametrize("prompt", ["hello there", "count 30", "emoji", "newlines", "explode"])
@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])
async def test_generations_are_as_described(door: Door, prompt: str, stream: bool) -> None:
    async with by_hand(door) as service:
        check_response("/generate", "post", await service.client.post(prompt=prompt, stream=stream))


@pytest.mark.parametrize("wrong", WRONG_BODIES)
async def test_refusals_are_as_described(door: Door, wrong: WrongBody) -> None:
    async with by_hand(door) as service:
        check_response("/generate", "post", await service.client.post(wrong.body))


async def test_other_answers_are_as_described(door: Door) -> None:
    async with by_hand(door, ScriptedEngine(slots=1, max_waiting=0)) as service:
        client = service.client
        for path in ("/health", "/openapi.json", "/docs"):
            check_response(path, "get", await client.request("GET", path))
        answers = [
            await client.request("POST", "/generate", b"{}"),
            await client.post(b" " * (contract.MAX_BODY_BYTES + 1)),
            await client.post(prompt="x", max_tokens=10**9),
        ]
        service.engine.hold()
        async with client.open_generate("hello") as running:
            await until(lambda: service.engine.counters().running == 1)
            answers.append(await client.post(prompt="hello"))
            service.engine.release()
            await running.end()
        await client.post(prompt="explode")
        await until(lambda: service.driver.status != "ok")
        answers.append(await client.post(prompt="hello"))
        check_response("/health", "get", await client.request("GET", "/health"))
    for answer in answers:
        check_response("/generate", "post", answer)
    assert [answer.status for answer in answers] == [415, 413, 422, 503, 500]


async def test_what_is_refused_before_the_door_is_as_described(door: Door) -> None:
    async with by_hand(door, config=Config(api_keys=("a-key",))) as service:
        answers = [
            await service.client.post(prompt="hello"),
            await service.client.post(prompt="hello", headers={"host": "evil.example"}),
        ]
    async with by_hand(door, config=Config(client_requests=1)) as service:
        service.engine.hold()
        async with service.client.open_generate("hello") as running:
            await until(lambda: service.engine.counters().running == 1)
            answers.append(await service.client.post(prompt="hello"))
            service.engine.release()
            await running.end()
    for answer in answers:
        check_response("/generate", "post", answer)
    assert [answer.status for answer in answers] == [401, 421, 429]


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])
async def test_the_answer_at_a_shutdown_is_as_described(door: Door, stream: bool) -> None:
    service = assemble(door)
    async with lifespan(service.app):
        await until(lambda: service.driver.status == "ok")
        service.engine.hold()
        exchange = service.client.open_generate("hello", stream)
        await until(lambda: service.engine.counters().running == 1)
    response = await exchange.response()
    assert response.status == (200 if stream else 503)
    check_response("/generate", "post", response)


async def test_the_example_of_a_request_works_and_the_example_of_a_stream_is_one(door: Door) -> None:
    operation = DOCUMENT["paths"]["/generate"]["post"]
    request = operation["requestBody"]["content"]["application/json"]
    check(request["example"], request["schema"])
    async with by_hand(door) as service:
        response = await service.client.request("POST", "/generate", json.dumps(request["example"]).encode(), JSON)
    assert response.status == 200
    stream = operation["responses"]["200"]["content"]["text/event-stream"]
    for event in events_of(stream["example"].encode()):
        check(event, event_schema(stream))


def a_schema_can_refuse(wrong: WrongBody) -> bool:
    """What is no JSON is no schema's business; and JSON Schema has one kind of number, so 1.0 is an integer to it."""
    is_json = not {problem for problem, _ in wrong.problems} & {"json_invalid", "finite_number"}
    return is_json and b": 1.0}" not in wrong.body


@pytest.mark.parametrize("wrong", [body for body in WRONG_BODIES if a_schema_can_refuse(body.values[0])])  # type: ignore[arg-type]
def test_the_requests_schema_refuses_what_the_doors_refuse(wrong: WrongBody) -> None:
    with pytest.raises(ValidationError):
        check(json.loads(wrong.body), {"$ref": "#/components/schemas/GenerateBody"})


@pytest.mark.parametrize("body", [b'{"prompt": "x"}', b'{"prompt": "x", "stop": "a", "seed": null, "top_k": 5}'])
def test_the_requests_schema_takes_what_the_doors_take(body: bytes) -> None:
    generate.parse(contract.Incoming(body))
    check(json.loads(body), {"$ref": "#/components/schemas/GenerateBody"})


def test_a_schema_that_is_not_true_would_be_noticed() -> None:
    with pytest.raises(ValidationError):
        check({"status": "ok"}, {"$ref": "#/components/schemas/Health"})
    content = DOCUMENT["paths"]["/generate"]["post"]["responses"]["200"]["content"]
    event = event_schema(content["text/event-stream"])
    with pytest.raises(ValidationError):
        check({"token": "x", "token_id": 1}, event)


def test_every_field_of_a_request_is_explained() -> None:
    for name, field in DOCUMENT["components"]["schemas"]["GenerateBody"]["properties"].items():
        assert field.get("description"), name
        assert "default" in field or name == "prompt"


@pytest.mark.parametrize("endpoint", [endpoint for endpoint in contract.ENDPOINTS if endpoint.request is not None])
def test_every_default_may_be_sent(endpoint: contract.Endpoint) -> None:
    fields = DOCUMENT["components"]["schemas"][endpoint.request.__name__]["properties"]
    defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
    body = defaults | endpoint.example
    check(body, {"$ref": f"#/components/schemas/{endpoint.request.__name__}"})
    endpoint.parse(contract.Incoming(json.dumps(body).encode(), models=["a-model"]))


def test_a_parameter_with_names_of_its_own_is_an_object_in_the_query() -> None:
    parameters = DOCUMENT["paths"]["/v1/chat/completions"]["get"]["parameters"]
    styles = {parameter["name"]: parameter.get("style") for parameter in parameters if parameter["in"] == "query"}
    assert styles["metadata"] == "deepObject"
    assert {name for name, style in styles.items() if style is not None} == {"metadata"}


def test_every_operation_has_a_summary_and_a_request_id() -> None:
    for path, method in OPERATIONS:
        operation = DOCUMENT["paths"][path][method]
        assert operation["summary"]
        for response in operation["responses"].values():
            assert "X-Request-Id" in response["headers"]


async def test_the_docs_page_needs_no_network(door: Door) -> None:
    async with by_hand(door, config=Config()) as service:
        page = await service.client.request("GET", "/docs")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        for url in re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page.body.decode()):
            if not url.startswith(("#", "data:", "mailto:")):
                assert not re.match(r"(\w+:)?//", url), url
                path = urlsplit(urljoin("/docs", url)).path
                assert (await service.client.request("GET", path)).status == 200, url

"""Too much work, or too large: it is refused by size and count first, and never delays small requests."""

import asyncio
import json
import logging
import resource
from collections.abc import Sequence
from typing import Any

import pytest

import contract
from config import Config
from contract.generate import GenerateBody
from contract.parsing import MAX_FIELDS
from interface.errors import QueueFull
from interface.requests import EncodedRequest, GenerationRequest
from serving import command_line, exchanges, status
from serving.file_limit import LEAST_FILES, SPARE, raise_file_limit
from serving.protocol import SlicedH11
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import JSON, until
from tests.support.driving import all_events, driving, submit
from tests.support.http_client import Connection
from tests.support.idle_time import IdleTime
from tests.support.serving import Door, by_hand, on_a_socket
from tests.support.slow_tokenizer import SlowTokenizer

pytestmark = pytest.mark.anyio


async def test_a_request_without_room_is_refused_before_it_is_tokenized() -> None:
    engine = SlowTokenizer()
    async with driving(engine, Config(max_streams=1, max_waiting=1)) as driver:
        tokenizing = [asyncio.create_task(submit(driver)) for _ in range(2)]
        await until(engine.is_encoding.is_set)
        with pytest.raises(QueueFull, match="the limit is 2"):
            await submit(driver)
        engine.may_encode.set()
        for generation in await asyncio.gather(*tokenizing):
            await all_events(generation)


class SlowWithLarge(SlowTokenizer):
    """Waits with large prompts only."""

    def encode(self, requests: Sequence[GenerationRequest]) -> list[EncodedRequest]:
        is_large = len(getattr(requests[0].prompt, "text", "")) > 100_000
        return super().encode(requests) if is_large else ScriptedEngine.encode(self, requests)


async def test_a_short_prompt_does_not_wait_for_large_ones(door: Door) -> None:
    engine = SlowWithLarge()
    async with by_hand(door, engine) as service:
        large = [asyncio.create_task(service.client.post(prompt="x" * 900_000)) for _ in range(20)]
        await until(lambda: len(service.driver.exchanges.open) == 20 and engine.is_encoding.is_set())
        assert (await service.client.post(prompt="hello")).status == 200
        assert not any(task.done() for task in large)
        for task in large:
            task.cancel()
        engine.may_encode.set()
        await asyncio.wait(large)


async def test_a_body_with_too_many_fields_is_refused_by_their_number(door: Door) -> None:
    many = {f"f{number}": 1 for number in range(MAX_FIELDS + 1)}
    async with by_hand(door) as service:
        for content in ({"prompt": "hello", **many}, {"prompt": "hello", "logit_bias": many}):
            answer = await service.client.post(content)
            assert answer.status == 413
            assert str(MAX_FIELDS) in answer.json()["detail"]
        colons = await service.client.post(prompt=":" * (2 * MAX_FIELDS), max_tokens=1)
        assert colons.status == 200


def test_a_body_that_is_announced_as_too_large_is_not_waited_for(door: Door) -> None:
    with on_a_socket(door) as service, Connection(service.port) as connection:
        connection.send(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        connection.send(b"Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n")
        answer = connection.read_response()
        assert answer.status == 413
        assert connection.is_closed()


MANY = 60_000
CROWDED = {
    "messages": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}] * (MANY // 3)}),
    "parts": ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 25_000}]}),
    "prompts": ("/v1/completions", {"prompt": ["a"] * MANY}),
    "lists": ("/v1/completions", {"prompt": [[1]] * MANY}),
    "tools": ("/v1/chat/completions", {"messages": [], "tools": [{"type": "function", "function": {}}] * 24_000}),
    "empty lists": ("/generate", {"prompt": [[]] * MANY}),
}
ROOMY: dict[str, dict[str, Any]] = {
    "a text of quotes": {"prompt": '"\\"[{' * 20_000},
    "token ids": {"prompt": list(range(1, 4000))},
}


@pytest.mark.parametrize("kind", CROWDED)
async def test_a_body_of_too_many_parts_is_refused_by_their_number(door: Door, kind: str) -> None:
    path, content = CROWDED[kind]
    body = json.dumps(content).encode()
    assert len(body) < contract.MAX_BODY_BYTES
    async with by_hand(door) as service:
        answer = await service.client.request("POST", path, body, JSON)
    assert answer.status == 413
    assert "Expected at most" in answer.body.decode()


@pytest.mark.parametrize("kind", ROOMY)
async def test_what_only_looks_like_many_parts_is_accepted(door: Door, kind: str) -> None:
    body = json.dumps({**ROOMY[kind], "max_tokens": 4}).encode()
    async with by_hand(door) as service:
        assert (await service.client.request("POST", "/v1/completions", body, JSON)).status == 200


def test_health_is_answered_soon_while_bodies_are_large_or_in_tiny_pieces(door: Door) -> None:
    """The bar is 50 ms; a slow machine gets ten times as much. Before, such a body held the loop for seconds."""
    unknown = json.dumps({"prompt": "x", **{f"f{number:06}": 1 for number in range(70_000)}}).encode()
    assert len(unknown) < contract.MAX_BODY_BYTES
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in unknown[:100_000])
    head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with (
        on_a_socket(door, http=SlicedH11) as service,
        Connection(service.port) as large,
        Connection(service.port) as observer,
    ):
        large.send(head + b"Content-Length: %d\r\n\r\n" % len(unknown) + unknown)
        took = [_seconds_of_health(observer) for _ in range(20)]
        assert large.read_response().status == 413
        with Connection(service.port) as tiny:
            tiny.socket.setblocking(False)
            tiny.socket.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + pieces)
            took += [_seconds_of_health(observer) for _ in range(20)]
    assert sorted(took)[-2] < 0.5, sorted(took)[-5:]


def _seconds_of_health(observer: Connection) -> float:
    stopwatch = IdleTime()
    assert observer.request("GET", "/health").status == 200
    return stopwatch.seconds


def test_the_limit_of_open_files_is_raised_and_what_is_missing_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda what, new: limits.append(new))
    raise_file_limit(1000)
    assert limits[-1] == (1000 + SPARE, 4096)
    assert not caplog.records
    raise_file_limit(10_000)
    assert limits[-1] == (4096, 4096)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "LimitNOFILE" in record.getMessage()


@pytest.mark.parametrize("main", [command_line.main, command_line.main_wsgi])
def test_too_few_files_to_start_with_are_refused_in_a_sentence(main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (12, LEAST_FILES - 1))
    with pytest.raises(SystemExit, match=f"at least {LEAST_FILES} open files, got {LEAST_FILES - 1}; raise it"):
        main(None, "a door", [])


async def test_what_is_missing_is_logged_once_the_log_has_its_form(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(status, "set_up_logging", lambda form: order.append(form))
    monkeypatch.setattr(exchanges, "raise_file_limit", lambda connections: order.append("the limit"))
    async with driving(ScriptedEngine(), Config(log_format="json")):
        assert order == ["json", "the limit"]


BODIES = {
    "latin-1": ('{"prompt": "né"}'.encode("latin-1"), "latin-1"),
    "zstd": (b"\x28\xb5\x2f\xfdabc", "zstd"),
    "UTF-16 without a mark": ('{"prompt": "hello"}'.encode("utf-16-le"), "UTF-16"),
    "a byte order mark": (b'\xef\xbb\xbf{"prompt": "hello"}', "byte order mark"),
    "UTF-16": ('{"prompt": "hello"}'.encode("utf-16"), "UTF-16"),
    "gzip": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "gzip"),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_a_body_that_is_no_text_gets_a_sentence_that_helps(door: Door, name: str, path: str) -> None:
    body, says = BODIES[name]
    async with by_hand(door) as service:
        answer = await service.client.request("POST", path, body, JSON)
    assert answer.status in (400, 422)
    assert says in answer.body.decode()
    assert "\\u" not in answer.body.decode()


async def test_a_compressed_body_is_415_with_the_encoding_named(door: Door) -> None:
    async with by_hand(door) as service:
        answer = await service.client.post(b"\x1f\x8b\x08", headers={"content-encoding": "gzip"})
        assert answer.status == 415
        assert "'gzip'" in answer.json()["detail"]
        assert answer.headers["accept-encoding"] == "identity"
        assert (await service.client.post(prompt="hello", headers={"content-encoding": "identity"})).status == 200


async def test_null_is_absent(door: Door) -> None:
    names = [name for name in GenerateBody.model_fields if name != "prompt"]
    async with by_hand(door) as service:
        answer = await service.client.post({"prompt": "hello", **dict.fromkeys(names)})
        assert answer.json()["text"] == "Hello, world!"
        assert (await service.client.post({"prompt": None})).status == 422
        assert (await service.client.post({"prompt": "hello", "unknown": None})).status == 422


@pytest.mark.parametrize("root_path", ["", "/api"])
async def test_a_target_may_be_a_whole_url(door: Door, root_path: str) -> None:
    async with by_hand(door) as service:
        path = f"{root_path}http://localhost:8000/health"
        assert (await service.client.request("GET", path, root_path=root_path)).status == 200


async def test_the_document_names_the_path_that_a_proxy_has_put_before_it(door: Door) -> None:
    async with by_hand(door) as service:
        document = (await service.client.request("GET", "/api/openapi.json", root_path="/api")).json()
        assert document["servers"] == [{"url": "/api"}]
        assert "servers" not in (await service.client.request("GET", "/openapi.json")).json()

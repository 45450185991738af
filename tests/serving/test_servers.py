"""The doors under every server that people run them with: what a client meets does not depend on it.

`uvicorn[standard]` brings uvloop and httptools, hypercorn and granian are servers of their own.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import contract
from study.common.engine import HELLO
from study.common.launcher import Process, free_port, status_of
from tests.support.asgi_client import events_of
from tests.support.http_client import Connection
from tests.support.serving import DOORS, in_a_process, wait_until

FACTORY = "tests.support.serving:scripted_app"
COMMANDS = {
    "uvicorn, h11": ["-m", "uvicorn", "--factory", FACTORY, "--http", "h11", "--loop", "asyncio", "--port"],
    "uvicorn[standard]": ["-m", "uvicorn", "--factory", FACTORY, "--http", "httptools", "--loop", "uvloop", "--port"],
    "hypercorn": ["-m", "hypercorn", "tests.support.serving:scripted_app()", "-b"],
    "granian": ["-m", "granian", "--interface", "asgi", "--factory", FACTORY, "--port"],
}
pytestmark = pytest.mark.parametrize("name", DOORS)
every_server = pytest.mark.parametrize("server", COMMANDS)
each_that_hears_signals = pytest.mark.parametrize("server", [name for name in COMMANDS if name != "hypercorn"])
"""hypercorn's main process keeps the signals from its workers (docs/operations.md)."""


@contextmanager
def serving(server: str, name: str, **environ: str) -> Iterator[Process]:
    port = free_port()
    address = f"127.0.0.1:{port}" if server == "hypercorn" else str(port)
    with in_a_process([*COMMANDS[server], address], {"DOOR": name} | environ) as process:
        process.given_port = port
        wait_until(lambda: status_of(process.target) == "ok", f"{server}'s start")
        yield process


def running(connection: Connection) -> int:
    found: int = connection.request("GET", "/health").json()["running"]
    return found


@every_server
def test_answers_are_the_same(server: str, name: str) -> None:
    with serving(server, name) as process, Connection(process.port) as connection:
        connection.send_generate("hello", stream=False)
        assert connection.read_response().json()["text"] == "".join(HELLO)
        connection.send_generate("hello")
        events = events_of(connection.read_response().body)
        assert [event.get("token") for event in events] == [*HELLO, None]
        assert connection.request("GET", "/nothing").status == 404
        assert connection.request("PUT", "/generate", b"").headers["allow"] == "POST"
        head = connection.request("HEAD", "/docs")
        assert (head.status, head.body) == (200, b"")
        wrong = connection.request("POST", "/generate", b"x", Content_Type="application/json")
        assert wrong.status == 422
        large = json.dumps({"prompt": "hello " * 20_000}).encode()
        assert connection.request("POST", "/generate", large, Content_Type="application/json").status == 422


CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 9}
BODIES: dict[str, dict[str, Any]] = {
    "/generate": {"prompt": "hello"},
    "/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [1]},
    "/v1/completions": {"prompt": "hello"},
    "/v1/chat/completions": CHAT,
    "/v1/messages": CHAT,
    "/v1/messages/count_tokens": CHAT,
    "/v1/responses": {"input": "hello"},
    "/v1/responses/input_tokens": {"input": "hello"},
}


@every_server
def test_every_endpoint_answers(server: str, name: str) -> None:
    asked = {endpoint.path for endpoint in contract.ENDPOINTS if endpoint.method == "POST"}
    assert asked == set(BODIES)
    gets = [endpoint.path for endpoint in contract.ENDPOINTS if endpoint.method == "GET" and not endpoint.takes_rest]
    with serving(server, name) as process, Connection(process.port) as connection:
        for path in [*gets, *contract.REPORTS, *contract.PAGES, "/openapi.json"]:
            assert connection.request("GET", path).status == 200, path
        for path, content in BODIES.items():
            answer = connection.request("POST", path, json.dumps(content).encode(), Content_Type="application/json")
            assert answer.status == 200, (path, answer.body)
            if "tokens" not in path and "tokenize" not in path:
                whole = json.dumps({**content, "stream": True}).encode()
                streamed = connection.request("POST", path, whole, Content_Type="application/json")
                assert streamed.headers["content-type"].startswith("text/event-stream"), path


@every_server
def test_tokens_come_one_by_one_and_a_client_that_leaves_ends_its_request(server: str, name: str) -> None:
    with serving(server, name) as process, Connection(process.port) as observer:
        with Connection(process.port) as leaver:
            leaver.send_generate("drip 4000", max_tokens=4000)
            leaver.read_head()
            assert leaver.read_event()["token"] == "0 "
            assert running(observer) == 1
        wait_until(lambda: running(observer) == 0, "the abort")
        assert observer.request("GET", "/health").json()["generated_tokens"] < 4000


@each_that_hears_signals
def test_at_a_signal_streams_are_told_and_the_process_ends(server: str, name: str) -> None:
    with serving(server, name, ENGINE_DRAIN="0.2") as process, Connection(process.port) as connection:
        connection.send_generate("drip 4000", max_tokens=4000)
        connection.read_head()
        connection.read_event()
        process.popen.terminate()
        *_, last = events_of(b"".join(connection.chunks()))
        assert last["error"]["type"] == "shutdown"
        process.wait()


@each_that_hears_signals
def test_a_process_whose_engine_has_failed_ends(server: str, name: str) -> None:
    with serving(server, name) as process, Connection(process.port) as connection:
        connection.send_generate("explode", stream=False)
        assert connection.read_response().status == 500
        assert process.wait() != 0

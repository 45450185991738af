"""The doors under each supported server: clients get the same from all of them.

`uvicorn[standard]` brings uvloop and httptools, hypercorn and granian are servers of their own.
"""

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import contract
from study.common.engine import HELLO
from study.common.launcher import Process, status_of
from tests.support.asgi_client import events_of
from tests.support.http_client import Connection
from tests.support.servers import SERVERS, kept_port
from tests.support.serving import DOORS, in_a_process, on_a_socket, wait_until

FACTORY = "tests.support.serving:scripted_app"
COMMANDS = {
    "uvicorn, h11": ["-m", "uvicorn", "--factory", FACTORY, "--http", "h11", "--loop", "asyncio", "--port"],
    "uvicorn[standard]": ["-m", "uvicorn", "--factory", FACTORY, "--http", "httptools", "--loop", "uvloop", "--port"],
    "hypercorn": ["-m", "hypercorn", "tests.support.serving:scripted_app()", "-b"],
    "granian": ["-m", "granian", "--interface", "asgi", "--factory", FACTORY, "--port"],
}
pytestmark = pytest.mark.parametrize("name", DOORS)
every_command = pytest.mark.parametrize("command", COMMANDS)
each_that_hears_signals = pytest.mark.parametrize("command", [name for name in COMMANDS if name != "hypercorn"])
"""hypercorn's main process keeps the signals from its workers (docs/operations.md)."""


@contextmanager
def serving(command: str, name: str, **environ: str) -> Iterator[Process]:
    with kept_port() as port:
        address = f"127.0.0.1:{port}" if command == "hypercorn" else str(port)
        with in_a_process([*COMMANDS[command], address], {"DOOR": name} | environ) as process:
            process.given_port = port
            wait_until(lambda: status_of(process.target) == "ok", f"{command}'s start")
            yield process


def running(connection: Connection) -> int:
    found: int = connection.request("GET", "/health").json()["running"]
    return found


@every_command
def test_a_server_started_by_its_command_serves_and_hears_who_leaves(command: str, name: str) -> None:
    with serving(command, name) as process, Connection(process.port) as observer:
        observer.send_generate("hello", stream=False)
        assert observer.read_response().json()["text"] == "".join(HELLO)
        with Connection(process.port) as leaver:
            leaver.send_generate("drip 4000", max_tokens=4000)
            leaver.read_head()
            assert leaver.read_event()["token"] == "0 "
            assert running(observer) == 1
        wait_until(lambda: running(observer) == 0, "the abort")
        assert observer.request("GET", "/health").json()["generated_tokens"] < 4000


CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 9}
BODIES: dict[str, dict[str, Any]] = {
    "/generate": {"prompt": "hello"},
    "/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [1]},
    "/v1/completions": {"prompt": "hello"},
    "/v1/chat/completions": CHAT,
    "/v1/messages": CHAT,
    "/v1/messages/count_tokens": CHAT,
    "/v1/conversations": {},
    "/v1/responses": {"input": "hello"},
    "/v1/responses/compact": {"input": "hello"},
    "/v1/responses/input_tokens": {"input": "hello"},
}


@pytest.mark.parametrize("server", SERVERS)
def test_every_endpoint_answers(server: str, name: str) -> None:
    requests = {
        endpoint.path for endpoint in contract.ENDPOINTS if endpoint.request is not None and "{" not in endpoint.path
    }
    assert requests == set(BODIES)
    streams = {endpoint.path for endpoint in contract.ENDPOINTS if endpoint.stream}
    gets = [endpoint.path for endpoint in contract.ENDPOINTS if endpoint.method == "GET" and "{" not in endpoint.path]
    door = importlib.import_module(name).create_app
    with on_a_socket(door, server=server) as service, Connection(service.port) as connection:
        for path in [*gets, *contract.REPORTS, *contract.PAGES, "/openapi.json"]:
            assert connection.request("GET", path).status == 200, path
        for path, content in BODIES.items():
            answer = connection.request("POST", path, json.dumps(content).encode(), Content_Type="application/json")
            assert answer.status == 200, (path, answer.body)
            if path in streams:
                whole = json.dumps({**content, "stream": True}).encode()
                streamed = connection.request("POST", path, whole, Content_Type="application/json")
                assert streamed.headers["content-type"].startswith("text/event-stream"), path
        large = json.dumps({"prompt": "hello " * 20_000}).encode()
        assert connection.request("POST", "/generate", large, Content_Type="application/json").status == 422


@each_that_hears_signals
def test_at_a_signal_streams_get_a_last_event_and_the_process_ends(command: str, name: str) -> None:
    with serving(command, name, ENGINE_DRAIN="0.2") as process, Connection(process.port) as connection:
        connection.send_generate("drip 4000", max_tokens=4000)
        connection.read_head()
        connection.read_event()
        process.popen.terminate()
        *_, last = events_of(b"".join(connection.chunks()))
        assert last["error"]["type"] == "shutdown"
        process.wait()


@each_that_hears_signals
def test_a_process_whose_engine_has_failed_ends(command: str, name: str) -> None:
    with serving(command, name) as process, Connection(process.port) as connection:
        connection.send_generate("explode", stream=False)
        assert connection.read_response().status == 500
        assert process.wait() != 0

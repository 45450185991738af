"""The service, message by message: each test plays the server, with a receive and a send of its own.

Every test runs against both doors. The engine is a script (see scripted_engine.py), so that a test can hold it at a
step and look at what has been sent by then.
"""

import asyncio
import contextlib
import json
import logging
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

import contract
from config import Config
from interface.request import (
    Counters,
    EncodedRequest,
    EngineVerbs,
    GenerationRequest,
    LoadError,
    UnusablePrompt,
)
from serving.driver import ENCODERS, Driver
from tests.support.asgi_client import JSON, SERVERS, UVICORN, Exchange, Server, events_of, http_scope, lifespan, until
from tests.support.scripted_engine import CONTEXT, HELLO, ScriptedEngine
from tests.support.serving import Door, Service, assemble, by_hand
from tests.support.wrong_bodies import WRONG_BODIES, WrongBody

pytestmark = pytest.mark.anyio

any_server = pytest.mark.parametrize("server", SERVERS, ids=str)
streaming_or_not = pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])


async def expect_start(exchange: Exchange, status: int = 200) -> dict[str, str]:
    """The headers, once they have been sent."""
    message = await exchange.next_message()
    assert (message["type"], message["status"]) == ("http.response.start", status)
    return {name.decode(): value.decode() for name, value in message["headers"]}


@contextlib.asynccontextmanager
async def submitted(service: Service, prompt: str, stream: bool, server: Server = UVICORN) -> AsyncIterator[Exchange]:
    """A request that the engine has. Requests that are opened together may reach it in any order."""
    before = len(service.engine.prompts)
    async with service.client.open_generate(prompt, stream, server, max_tokens=300) as exchange:
        await until(lambda: len(service.engine.prompts) > before)
        yield exchange


# --- A whole answer ---------------------------------------------------------------------------------------------------


async def test_an_answer_that_is_not_streamed_has_the_text_its_tokens_and_their_times(door: Door) -> None:
    async with by_hand(door) as service:
        response = await service.client.post(prompt="hello there")
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-length"] == str(len(response.body))
    answer = response.json()
    times = ["prefill_time_ms", "decode_time_ms", "total_time_ms", "tokens_per_second"]
    assert list(answer) == [
        "text",
        "token_ids",
        "finish_reason",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        *times,
    ]
    assert {name: value for name, value in answer.items() if name not in times} == {
        "text": "".join(HELLO),
        "token_ids": [0, 1, 2, 3],
        "finish_reason": "stop",
        "prompt_tokens": 2,
        "cached_tokens": 0,
        "completion_tokens": 4,
    }
    assert all(answer[name] > 0 for name in times)


async def test_max_tokens_ends_a_text_with_the_reason_length(door: Door) -> None:
    async with by_hand(door) as service:
        answer = (await service.client.post(prompt="count 10", max_tokens=3)).json()
    assert (answer["text"], answer["finish_reason"], answer["completion_tokens"]) == ("0 1 2 ", "length", 3)


async def test_text_that_is_not_ascii_arrives_whole(door: Door) -> None:
    async with by_hand(door) as service:
        whole = (await service.client.post(prompt="emoji")).json()
        async with service.client.open_generate("emoji") as exchange:
            *tokens, _ = events_of((await exchange.response()).body)
    assert whole["text"] == "😀 你好"
    assert [token["token"] for token in tokens] == ["", "", "", "😀", " 你好"]


async def test_nothing_is_sent_before_an_unstreamed_answer_is_complete(door: Door) -> None:
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("hello", stream=False) as exchange:
            service.engine.release(3)
            await until(lambda: service.engine.generated_tokens == 3)
            assert exchange.sent == []
            service.engine.release()
            assert (await exchange.response()).json()["completion_tokens"] == 4


# --- A stream ---------------------------------------------------------------------------------------------------------


async def test_a_stream_is_a_first_token_next_tokens_a_closing_event_and_done(door: Door) -> None:
    async with by_hand(door) as service, service.client.open_generate("hello there") as exchange:
        response = await exchange.response()
    assert response.status == 200
    first, *others, closing = events_of(response.body)
    assert list(first) == ["token", "token_id", "prefill_time_ms"]
    assert [list(one) for one in others] == [["token", "token_id", "step_ms"]] * 3
    assert [(one["token"], one["token_id"]) for one in (first, *others)] == [
        (text, number) for number, text in enumerate(HELLO)
    ]
    assert list(closing) == ["finish_reason", "prompt_tokens", "cached_tokens", "completion_tokens", "total_time_ms"]
    assert (closing["finish_reason"], closing["prompt_tokens"], closing["completion_tokens"]) == ("stop", 2, 4)


async def test_each_event_of_a_stream_is_a_message_of_its_own(door: Door) -> None:
    async with by_hand(door) as service, service.client.open_generate("hello") as exchange:
        await exchange.end()
    start, *bodies, last = exchange.sent
    assert start["type"] == "http.response.start"
    assert [body["body"].count(b"\n\n") for body in bodies] == [1] * (len(HELLO) + 2)
    assert all(body["more_body"] is True for body in bodies)
    assert bodies[-1]["body"] == b"data: [DONE]\n\n"
    assert (last["body"], last["more_body"]) == (b"", False)


async def test_the_headers_of_a_stream_leave_before_its_first_token(door: Door) -> None:
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("hello") as exchange:
            await expect_start(exchange)
            assert service.engine.generated_tokens == 0


async def test_the_headers_of_a_stream_keep_proxies_from_holding_it_back(door: Door) -> None:
    async with by_hand(door) as service, service.client.open_generate("hello") as exchange:
        headers = (await exchange.response()).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache, no-transform"
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers


async def test_each_token_leaves_when_it_is_made(door: Door) -> None:
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("hello") as exchange:
            await expect_start(exchange)
            for made, text in enumerate(HELLO, start=1):
                service.engine.release(1)
                assert (await exchange.next_event())["token"] == text
                assert service.engine.generated_tokens == made


async def test_line_breaks_in_a_token_break_no_event(door: Door) -> None:
    async with by_hand(door) as service, service.client.open_generate("newlines") as exchange:
        *tokens, _ = events_of((await exchange.response()).body)
    assert [token["token"] for token in tokens] == ["one\n\ntwo\r\nthree", "\u2028", "data: x\n\n"]


async def test_silence_is_filled_with_comments(door: Door) -> None:
    async with by_hand(door, config=Config(heartbeat=0.01)) as service:
        service.engine.hold()
        async with service.client.open_generate("hello") as exchange:
            await expect_start(exchange)
            for _ in range(3):
                assert (await exchange.next_message())["body"] == b": heartbeat\n\n"
            service.engine.release()
            *tokens, closing = events_of((await exchange.response()).body)
    assert [token["token"] for token in tokens] == HELLO
    assert closing["finish_reason"] == "stop"


async def test_an_unstreamed_answer_has_no_heartbeat(door: Door) -> None:
    async with by_hand(door, config=Config(heartbeat=0.005)) as service:
        service.engine.hold()
        async with service.client.open_generate("hello", stream=False) as exchange:
            await until(lambda: service.engine.counters().running == 1)
            await asyncio.sleep(0.05)  # time for ten of them
            assert exchange.sent == []
            service.engine.release()
            assert (await exchange.response()).json()["text"] == "".join(HELLO)


async def test_a_stream_that_is_never_silent_has_no_comments(door: Door) -> None:
    async with by_hand(door) as service, service.client.open_generate("count 300", max_tokens=300) as exchange:
        assert b"\n:" not in (await exchange.response()).body


async def test_an_error_after_the_start_is_an_event_and_then_done(door: Door) -> None:
    async with by_hand(door) as service, service.client.open_generate("explode") as exchange:
        token, error = events_of((await exchange.response()).body)
    assert token["token"] == HELLO[0]
    assert error == {"error": {"message": "RuntimeError: the script says so", "type": "engine_error"}}


async def test_an_error_before_an_unstreamed_answer_is_500(door: Door) -> None:
    async with by_hand(door) as service:
        response = await service.client.post(prompt="explode")
    assert (response.status, response.json()) == (500, {"detail": "RuntimeError: the script says so"})


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", WRONG_BODIES)
async def test_a_wrong_body_is_422_with_every_problem(door: Door, wrong: WrongBody) -> None:
    async with by_hand(door) as service:
        problems = (await service.client.post(wrong.body)).problems()
        assert [(one["type"], tuple(one["loc"])) for one in problems] == [
            (problem, ("body", *place)) for problem, place in wrong.problems
        ]
        assert service.engine.prompts == []


async def test_a_wrong_body_is_refused_before_a_stream_starts(door: Door) -> None:
    async with by_hand(door) as service:
        response = await service.client.post(prompt="x", stream=True, max_tokens=0)
    assert (response.status, response.headers["content-type"]) == (422, "application/json")


@streaming_or_not
async def test_a_prompt_that_does_not_fit_the_context_is_422_with_both_lengths(door: Door, stream: bool) -> None:
    async with by_hand(door) as service:
        response = await service.client.post(prompt="one two three", max_tokens=CONTEXT - 2, stream=stream)
        fits = await service.client.post(prompt="one two three", max_tokens=CONTEXT - 3, stream=stream)
        assert service.engine.prompts == ["one two three"]
    (problem,) = response.problems()
    assert list(problem) == ["type", "loc", "msg", "input"]
    assert problem["loc"] == ["body", "prompt"]
    assert "3 tokens" in problem["msg"]
    assert str(CONTEXT - 2) in problem["msg"]
    assert str(CONTEXT) in problem["msg"]
    assert fits.status == 200


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_that_does_not_call_itself_json_is_415(door: Door, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    async with by_hand(door) as service:
        response = await service.client.request("POST", "/generate", b'{"prompt": "x"}', headers)
        assert service.engine.prompts == []
    assert response.status == 415
    assert "application/json" in response.json()["detail"]


async def test_a_body_of_exactly_the_limit_is_read(door: Door) -> None:
    body = b'{"prompt": "hello"}'.ljust(contract.MAX_BODY_BYTES)
    async with by_hand(door) as service:
        response = await service.client.post(body)
    assert response.status == 200


async def test_a_body_over_the_limit_is_413(door: Door) -> None:
    body = b'{"prompt": "hello"}'.ljust(contract.MAX_BODY_BYTES + 1)
    async with by_hand(door) as service:
        response = await service.client.post(body)
        assert service.engine.prompts == []
    assert response.status == 413
    assert str(contract.MAX_BODY_BYTES) in response.json()["detail"]


async def test_a_body_without_end_is_413_as_soon_as_it_is_over_the_limit(door: Door) -> None:
    piece = b" " * 65536
    async with by_hand(door) as service, service.client.open("POST", "/generate", JSON) as exchange:
        pieces = contract.MAX_BODY_BYTES // len(piece)
        for _ in range(pieces):
            exchange.send_body(piece, more_body=True)
        await until(lambda: exchange.receive_calls == pieces + 1)
        assert exchange.sent == []
        exchange.send_body(b" ", more_body=True)
        assert (await exchange.response()).status == 413


@streaming_or_not
async def test_a_full_queue_is_503_with_retry_after(door: Door, stream: bool) -> None:
    async with by_hand(door, ScriptedEngine(slots=1, max_waiting=1)) as service:
        service.engine.hold()
        async with submitted(service, "hello", True) as running, submitted(service, "hello", True) as waiting:
            response = await service.client.post(prompt="hello", stream=stream)
            assert response.status == 503
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["detail"]
            service.engine.release()
            assert len(events_of((await running.response()).body)) == len(HELLO) + 1
            assert len(events_of((await waiting.response()).body)) == len(HELLO) + 1
        assert (await service.client.post(prompt="hello", stream=stream)).status == 200


@pytest.mark.parametrize("path", ["/nothing", "/generate/", "/health/", "/docs/", "//health", "/Health", ""])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_an_unknown_path_is_404(door: Door, path: str, method: str) -> None:
    async with by_hand(door) as service:
        response = await service.client.request(method, path)
    assert (response.status, response.json()) == (404, {"detail": "Not Found"})
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/generate", "POST"),
        ("HEAD", "/generate", "POST"),
        ("PUT", "/generate", "POST"),
        ("OPTIONS", "/generate", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/openapi.json", "GET, HEAD"),
        ("POST", "/docs", "GET, HEAD"),
        ("get", "/health", "GET, HEAD"),
        ("BREW", "/health", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405_and_says_which_are_right(door: Door, method: str, path: str, allowed: str) -> None:
    async with by_hand(door) as service:
        response = await service.client.request(method, path)
        assert service.engine.prompts == []
    assert response.status == 405
    assert response.headers["allow"] == allowed
    if method != "HEAD":
        assert response.json() == {"detail": "Method Not Allowed"}


@pytest.mark.parametrize("path", ["/health", "/openapi.json", "/docs"])
async def test_head_has_the_headers_of_get_and_no_body(door: Door, path: str) -> None:
    async with by_hand(door) as service:
        get = await service.client.request("GET", path)
        head = await service.client.request("HEAD", path)
        assert service.engine.steps == 0
    assert (get.status, head.status) == (200, 200)
    assert head.body == b""
    assert head.headers.pop("x-request-id") != get.headers.pop("x-request-id")
    assert head.headers == get.headers
    assert get.headers["content-length"] == str(len(get.body))


@pytest.mark.parametrize("path", ["/generate", "/nothing"])
async def test_head_never_starts_the_engine(door: Door, path: str) -> None:
    async with by_hand(door) as service:
        response = await service.client.request("HEAD", path, b'{"prompt": "hello"}', JSON)
        assert (response.status, response.body) == (405 if path == "/generate" else 404, b"")
        assert (service.engine.prompts, service.engine.steps) == ([], 0)


# --- How the request comes --------------------------------------------------------------------------------------------


async def test_a_body_may_come_in_many_pieces(door: Door) -> None:
    body = '{"prompt": "hello 你好"}'.encode()
    async with by_hand(door) as service, service.client.open("POST", "/generate", JSON) as exchange:
        for position in range(len(body)):
            exchange.send_body(body[position : position + 1], more_body=True)
            exchange.send_body(b"", more_body=True)
        exchange.send_body(b"", more_body=False)
        assert (await exchange.response()).json()["text"] == "".join(HELLO)
        assert service.engine.prompts == ["hello 你好"]


async def test_the_keys_that_a_body_message_may_leave_out_are_not_needed(door: Door) -> None:
    async with by_hand(door) as service, service.client.open("POST", "/generate", JSON) as exchange:
        exchange.send_message({"type": "http.request", "body": b'{"prompt"', "more_body": True})
        exchange.send_message({"type": "http.request", "more_body": True})
        exchange.send_message({"type": "http.request", "body": b': "hello"}'})
        assert (await exchange.response()).status == 200


async def test_unknown_keys_in_a_scope_are_ignored(door: Door) -> None:
    async with by_hand(door) as service:
        scope = http_scope("GET", "/health") | {"extensions": {"http.response.trailers": {}}, "x": object()}
        async with Exchange(service.app, scope) as exchange:
            assert (await exchange.response()).status == 200


async def test_optional_keys_of_a_scope_are_not_needed(door: Door) -> None:
    scope = http_scope("POST", "/generate", JSON)
    for optional in ("scheme", "raw_path", "root_path", "client", "server"):
        del scope[optional]
    async with by_hand(door) as service, Exchange(service.app, scope) as exchange:
        exchange.send_body(b'{"prompt": "hello"}')
        assert (await exchange.response()).status == 200


async def test_a_content_type_that_came_twice_is_the_first_one(door: Door) -> None:
    twice = [(b"content-type", b"application/json"), (b"content-type", b"text/plain")]
    async with by_hand(door) as service:
        first = await service.client.request("POST", "/generate", b'{"prompt": "hello"}', twice)
        second = await service.client.request("POST", "/generate", b'{"prompt": "hello"}', reversed(twice))
    assert (first.status, second.status) == (200, 415)


@pytest.mark.parametrize(
    ("root_path", "path", "status"),
    [
        ("/api", "/api/health", 200),
        ("/api/v1", "/api/v1/health", 200),
        ("/api", "/health", 200),  # a proxy that strips the prefix, and a server that did not add it
        ("/api", "/api", 404),
        ("/api", "/apihealth", 404),
        ("/api", "/api/api/health", 404),
        ("/health", "/health", 404),
        ("/health", "/health/health", 200),
        ("/api/", "/api/health", 404),
    ],
)
async def test_root_path_is_taken_off_at_the_border_of_a_segment(
    door: Door, root_path: str, path: str, status: int
) -> None:
    async with by_hand(door) as service:
        assert (await service.client.request("GET", path, root_path=root_path)).status == status


# --- X-Request-Id -----------------------------------------------------------------------------------------------------

ANSWERS = [
    pytest.param("GET", "/health", b"", {}, 200, id="200"),
    pytest.param("POST", "/generate", b'{"prompt": "hello"}', JSON, 200, id="200 whole"),
    pytest.param("POST", "/generate", b'{"prompt": "hello", "stream": true}', JSON, 200, id="200 stream"),
    pytest.param("HEAD", "/docs", b"", {}, 200, id="200 HEAD"),
    pytest.param("GET", "/nothing", b"", {}, 404, id="404"),
    pytest.param("GET", "/generate", b"", {}, 405, id="405"),
    pytest.param("POST", "/generate", b" " * (contract.MAX_BODY_BYTES + 1), JSON, 413, id="413"),
    pytest.param("POST", "/generate", b"", {}, 415, id="415"),
    pytest.param("POST", "/generate", b"{", JSON, 422, id="422"),
    pytest.param("POST", "/generate", b'{"prompt": "x", "max_tokens": 1000000}', JSON, 422, id="422 context"),
    pytest.param("POST", "/generate", b'{"prompt": "explode"}', JSON, 500, id="500"),
    pytest.param("POST", "/generate", b'{"prompt": "full"}', JSON, 503, id="503"),
]


@pytest.fixture
def full_for_one_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that has no room for the prompt "full"."""
    submit = ScriptedEngine.submit

    def or_full(self: ScriptedEngine, encoded: EncodedRequest, sink: Any) -> int:
        self.capacity = 0 if encoded.request.prompt == "full" else 256
        return submit(self, encoded, sink)

    monkeypatch.setattr(ScriptedEngine, "submit", or_full)


@pytest.mark.usefixtures("full_for_one_prompt")
@pytest.mark.parametrize(("method", "path", "body", "headers", "status"), ANSWERS)
async def test_every_answer_has_the_clients_own_request_id(
    door: Door, method: str, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    async with by_hand(door) as service:
        response = await service.client.request(method, path, body, headers | {"x-request-id": "mine-1"})
    assert (response.status, response.headers["x-request-id"]) == (status, "mine-1")


@pytest.mark.usefixtures("full_for_one_prompt")
@pytest.mark.parametrize(("method", "path", "body", "headers", "status"), ANSWERS)
async def test_every_answer_has_a_new_request_id_if_the_client_sent_none(
    door: Door, method: str, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    async with by_hand(door) as service:
        responses = [await service.client.request(method, path, body, headers) for _ in range(2)]
    ids = {response.headers["x-request-id"] for response in responses}
    assert len(ids) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in ids)


@pytest.mark.parametrize("insane", ["", " ", "a b", "a\nb", "a\r\nx: y", "é", "x" * 129, "x" * 100_000])
async def test_an_insane_request_id_is_replaced(door: Door, insane: str) -> None:
    async with by_hand(door) as service:
        response = await service.client.request("GET", "/health", headers={"x-request-id": insane})
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


# --- The log ----------------------------------------------------------------------------------------------------------


def access_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, str]]:
    lines = [record.getMessage() for record in caplog.records if record.name == "engine.access"]
    assert all(line.startswith("generation ") for line in lines)
    return [dict(pair.split("=", 1) for pair in line.split()[1:]) for line in lines]


@streaming_or_not
async def test_each_generation_has_one_line_in_the_access_log(
    door: Door, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "engine.access")
    async with by_hand(door) as service:
        response = await service.client.post(prompt="hello there", stream=stream, headers={"x-request-id": "mine-1"})
        await service.client.post(prompt="count 9", max_tokens=1, stream=stream)
        await service.client.request("GET", "/health")
        await service.client.post(prompt="")
    assert response.status == 200
    first, second = access_lines(caplog)
    assert float(first.pop("time_to_first_token_ms")) >= 0
    assert first == {
        "request_id": "mine-1",
        "prompt_tokens": "2",
        "completion_tokens": "4",
        "finish_reason": "stop",
    }
    assert (second["finish_reason"], second["completion_tokens"]) == ("length", "1")


@streaming_or_not
async def test_the_access_log_tells_of_those_who_left_and_of_errors(
    door: Door, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "engine.access")
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("hello", stream=stream) as exchange:
            await until(lambda: service.engine.counters().running == 1)
            exchange.disconnect()
            await exchange.end()
        service.engine.release()
        async with service.client.open_generate("explode", stream=stream) as exchange:
            await exchange.end()
    left, failed = access_lines(caplog)
    assert (left["finish_reason"], left["time_to_first_token_ms"], left["completion_tokens"]) == ("abort", "-", "0")
    assert (failed["finish_reason"], failed["completion_tokens"]) == ("engine_error", "1")


# --- Clients that leave -----------------------------------------------------------------------------------------------


@any_server
@pytest.mark.parametrize("pieces", [0, 1, 2])
async def test_a_client_that_leaves_while_it_sends_its_body_is_answered_nothing(
    door: Door, server: Server, pieces: int
) -> None:
    async with by_hand(door) as service, service.client.open("POST", "/generate", JSON, server) as exchange:
        for piece in (b'{"prompt"', b': "hello"}')[:pieces]:
            exchange.send_body(piece, more_body=True)
        exchange.disconnect()
        await exchange.end()
        assert exchange.send_calls == 0
        assert service.engine.prompts == []


@any_server
@streaming_or_not
async def test_a_client_that_leaves_in_the_queue_stops_its_request(door: Door, server: Server, stream: bool) -> None:
    async with by_hand(door, ScriptedEngine(slots=1)) as service:
        service.engine.hold()
        async with (
            submitted(service, "hello", stream=False) as neighbour,
            submitted(service, "count 300", stream, server) as leaver,
        ):
            await until(lambda: service.engine.counters() == Counters(running=1, waiting=1, generated_tokens=0))
            leaver.disconnect()
            await leaver.end()
            await until(lambda: service.engine.aborted == [2])
            service.engine.release()
            assert (await neighbour.response()).json()["text"] == "".join(HELLO)
        assert service.engine.counters() == Counters(0, 0, generated_tokens=len(HELLO))


@any_server
@streaming_or_not
async def test_a_client_that_leaves_in_prefill_stops_its_request(door: Door, server: Server, stream: bool) -> None:
    async with by_hand(door) as service:
        service.engine.hold()
        async with (
            submitted(service, "hello", stream=False) as neighbour,
            submitted(service, "count 300", stream, server) as leaver,
        ):
            await until(lambda: service.engine.counters().running == 2)
            if stream:
                await expect_start(leaver)
            leaver.disconnect()
            await leaver.end()
            await until(lambda: service.engine.aborted == [2])
            service.engine.release()
            assert (await neighbour.response()).json()["text"] == "".join(HELLO)
        health = (await service.client.request("GET", "/health")).json()
    assert (health["running"], health["waiting"], health["generated_tokens"]) == (0, 0, len(HELLO))


@any_server
@streaming_or_not
async def test_a_client_that_leaves_in_decode_stops_its_request(door: Door, server: Server, stream: bool) -> None:
    async with by_hand(door) as service:
        service.engine.hold()
        async with (
            submitted(service, "hello", stream=True) as neighbour,
            submitted(service, "count 300", stream, server) as leaver,
        ):
            await until(lambda: service.engine.counters().running == 2)
            service.engine.release(2)
            await until(lambda: service.engine.generated_tokens == 4)
            if stream:
                await expect_start(leaver)
                assert [(await leaver.next_event())["token"] for _ in range(2)] == ["0 ", "1 "]
            sent_before = len(leaver.sent)
            leaver.disconnect()
            await leaver.end()
            assert len(leaver.sent) == sent_before
            await until(lambda: service.engine.aborted == [2])
            service.engine.release()
            *tokens, _ = events_of((await neighbour.response()).body)
            assert [token["token"] for token in tokens] == HELLO
        health = (await service.client.request("GET", "/health")).json()
    assert health["generated_tokens"] == len(HELLO) + 2


@any_server
async def test_a_client_that_leaves_while_tokens_stream_is_sent_little_more(door: Door, server: Server) -> None:
    """The engine runs free; what counts is that the door does not go on to the end of the text."""
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("count 4000", True, server, max_tokens=4000) as exchange:
            await expect_start(exchange)
            service.engine.release(3)
            for _ in range(3):
                await exchange.next_event()
            calls_before = exchange.send_calls
            exchange.disconnect()
            service.engine.release()
            await exchange.end()
        await until(lambda: service.engine.counters().running == 0)
        assert service.engine.aborted == [1]
        assert service.engine.generated_tokens < 4000
    assert exchange.send_calls - calls_before < 100


async def test_a_client_whose_leaving_shows_only_in_send_stops_its_request(door: Door) -> None:
    """Spec 2.4 lets a server say it by an OSError from send; a disconnect message may come much later."""
    async with by_hand(door) as service:
        service.engine.hold()
        server = Server("2.4", "raises")
        async with service.client.open_generate("count 300", True, server, max_tokens=300) as exchange:
            await expect_start(exchange)
            exchange.is_disconnected = True
            service.engine.release(1)
            await exchange.end()
            await until(lambda: service.engine.aborted == [1])


@any_server
@pytest.mark.parametrize(("method", "path", "body", "headers", "status"), ANSWERS[:-1])
async def test_an_answer_to_a_client_that_has_left_is_lost_without_an_error(
    door: Door, server: Server, method: str, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    async with by_hand(door) as service, service.client.open(method, path, headers, server) as exchange:
        exchange.send_body(body)
        exchange.disconnect()
        await exchange.end()
        assert exchange.sent == []
        await until(lambda: service.engine.counters() == Counters(0, 0, service.engine.generated_tokens))


class SlowTokenizer(ScriptedEngine):
    """Waits in `encode` until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.is_encoding = threading.Event()
        self.may_encode = threading.Event()

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        self.is_encoding.set()
        assert self.may_encode.wait(20)
        return super().encode(request)


@any_server
@streaming_or_not
async def test_a_client_that_leaves_while_its_prompt_is_tokenized_leaves_nothing_running(
    door: Door, server: Server, stream: bool
) -> None:
    engine = SlowTokenizer()
    async with by_hand(door, engine) as service:
        engine.hold()
        async with service.client.open_generate("hello", stream, server) as exchange:
            await until(engine.is_encoding.is_set)
            exchange.disconnect()
            engine.may_encode.set()
            await exchange.end()
            assert exchange.sent == []
        await until(lambda: engine.aborted == [1])
        assert engine.counters() == Counters(0, 0, 0)


async def test_a_prompt_that_takes_long_to_tokenize_does_not_hold_up_health(door: Door) -> None:
    engine = SlowTokenizer()
    async with by_hand(door, engine) as service, service.client.open_generate("hello", stream=False) as exchange:
        await until(engine.is_encoding.is_set)
        assert (await service.client.request("GET", "/health")).status == 200
        engine.may_encode.set()
        assert (await exchange.response()).status == 200


@streaming_or_not
async def test_a_request_that_the_server_cancels_stops(door: Door, stream: bool) -> None:
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("hello", stream) as exchange:
            await until(lambda: service.engine.counters().running == 1)
            exchange.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await exchange.task
            await until(lambda: service.engine.aborted == [1])


async def test_a_client_that_does_not_read_is_cut_off(door: Door) -> None:
    async with by_hand(door, config=Config(stall=0.02)) as service:
        async with service.client.open_generate("count 300", max_tokens=300) as stuck:
            await expect_start(stuck)
            stuck.stop_reading()
            await stuck.end()
        async with service.client.open_generate("hello") as reader:
            assert len(events_of((await reader.response()).body)) == len(HELLO) + 1


async def test_a_client_that_does_not_read_is_cut_off_while_the_engine_goes_on(door: Door) -> None:
    async with by_hand(door, config=Config(stall=0.02)) as service:
        service.engine.hold()
        async with service.client.open_generate("count 4000", max_tokens=4000) as stuck:
            await expect_start(stuck)
            stuck.stop_reading()
            service.engine.release(1)
            await stuck.end()
            await until(lambda: service.engine.aborted == [1])


async def test_a_client_that_reads_is_not_cut_off_however_slow_the_engine_is(door: Door) -> None:
    async with by_hand(door, config=Config(stall=0.01, heartbeat=0.005)) as service:
        service.engine.hold()
        async with service.client.open_generate("hello") as exchange:
            for _ in range(20):
                await exchange.next_message()  # the start, then heartbeats: ten times `stall`
            service.engine.release()
            assert len(events_of((await exchange.response()).body)) == len(HELLO) + 1


# --- Many at once -----------------------------------------------------------------------------------------------------


async def test_sixty_streams_run_at_once_without_a_thread_for_each(door: Door) -> None:
    """anyio's own pool has 40 threads; a stream that held one would leave the 41st without."""
    async with by_hand(door, ScriptedEngine(slots=64)) as service, contextlib.AsyncExitStack() as stack:
        service.engine.hold()
        async with service.client.open_generate("hello") as warm_up:
            await expect_start(warm_up)
            threads_for_one = threading.active_count()
            warm_up.disconnect()
            await warm_up.end()
        exchanges = [
            await stack.enter_async_context(service.client.open_generate(f"count {n + 1}", max_tokens=100))
            for n in range(60)
        ]
        await until(lambda: service.engine.counters().running == 60)
        for exchange in exchanges:
            await expect_start(exchange)
        # One thread steps, and ENCODERS tokenize; for a single stream one thread has done both, one after the other.
        assert threading.active_count() <= threads_for_one + ENCODERS
        service.engine.release(1)
        for exchange in exchanges:
            assert (await exchange.next_event())["token"] == "0 "
        service.engine.release()
        for n, exchange in enumerate(exchanges):
            *tokens, closing = events_of((await exchange.response()).body)
            assert [token["token"] for token in tokens] == [f"{i} " for i in range(n + 1)]
            assert closing["completion_tokens"] == n + 1


async def test_health_is_answered_while_a_step_takes_long(door: Door) -> None:
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("hello") as exchange:
            await until(lambda: service.engine.counters().running == 1)
            for _ in range(10):
                response = await service.client.request("GET", "/health")
                assert response.json()["running"] == 1
            assert service.engine.steps == 0
            service.engine.release()
            await exchange.end()


async def test_health_is_answered_while_a_stream_has_much_to_send(door: Door) -> None:
    """A send usually does not wait, so a stream that only sends would keep the loop to itself."""
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("count 4000", max_tokens=4000) as exchange:
            await expect_start(exchange)
            exchange.stop_reading()
            service.engine.release()
            await until(lambda: service.engine.generated_tokens == 4000)
            await until(lambda: service.engine.counters().running == 0)
            exchange._room.set()
            assert (await service.client.request("GET", "/health")).status == 200
            assert not exchange.task.done()
            await exchange.end()


# --- Health -----------------------------------------------------------------------------------------------------------


async def test_health_says_what_the_engine_is_busy_with(door: Door) -> None:
    async with by_hand(door, ScriptedEngine(slots=1), Config(model="an/example")) as service:
        service.engine.hold()
        async with submitted(service, "hello", True) as running, submitted(service, "hello", True):
            await until(lambda: service.engine.counters().waiting == 1)
            service.engine.release(2)
            await expect_start(running)
            await running.next_event()
            await running.next_event()
            response = await service.client.request("GET", "/health")
    assert response.status == 200
    assert response.json() == {
        "status": "ok",
        "model": "an/example",
        "running": 1,
        "waiting": 1,
        "generated_tokens": 2,
    }
    assert list(response.json()) == ["status", "model", "running", "waiting", "generated_tokens"]


async def test_health_names_a_folder_without_the_folders_above_it(door: Door, tmp_path: Any) -> None:
    folder = tmp_path / "some_model"
    folder.mkdir()
    async with by_hand(door, config=Config(model=str(folder))) as service:
        assert (await service.client.request("GET", "/health")).json()["model"] == "some_model"


async def test_after_the_engine_has_died_health_and_new_requests_are_503_and_say_why(door: Door) -> None:
    async with by_hand(door) as service:
        service.engine.hold()
        async with (
            service.client.open_generate("explode", stream=False) as culprit,
            service.client.open_generate("count 300", max_tokens=300) as bystander,
        ):
            await until(lambda: service.engine.counters().running == 2)
            service.engine.release()
            assert (await culprit.response()).status == 500
            *_, error = events_of((await bystander.response()).body)
            assert error["error"]["type"] == "engine_error"
        await until(lambda: service.driver.status != "ok")  # the streams may hear of it a moment before
        health = await service.client.request("GET", "/health")
        assert health.status == 503
        assert health.json()["status"] == "engine failed: RuntimeError: the script says so"
        for stream in (True, False):
            refused = await service.client.post(prompt="hello", stream=stream)
            assert refused.status == 503
            assert "the script says so" in refused.json()["detail"]
            assert int(refused.headers["retry-after"]) >= 1


# --- Lifespan ---------------------------------------------------------------------------------------------------------


class Loading:
    """A load that ends when it is told to."""

    def __init__(self, outcome: EngineVerbs | Exception) -> None:
        self.outcome = outcome
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self, config: Config) -> EngineVerbs:
        self.has_begun.set()
        assert self.may_end.wait(20)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


async def test_startup_is_complete_while_the_engine_still_loads(door: Door) -> None:
    engine = ScriptedEngine()
    loading = Loading(engine)
    service = assemble(door, load=loading)
    async with lifespan(service.app):
        await until(loading.has_begun.is_set)
        health = await service.client.request("GET", "/health")
        assert (health.status, health.json()["status"]) == (503, "loading")
        assert health.json()["generated_tokens"] == 0
        for stream in (True, False):
            refused = await service.client.post(prompt="hello", stream=stream)
            assert refused.status == 503
            assert "loading" in refused.json()["detail"]
            assert int(refused.headers["retry-after"]) >= 1
        assert (await service.client.post(prompt="")).status == 422
        assert (await service.client.request("HEAD", "/health")).status == 503
        loading.may_end.set()
        await until(lambda: service.driver.status == "ok")
        assert (await service.client.post(prompt="hello")).status == 200
        assert (await service.client.request("GET", "/health")).status == 200


@pytest.mark.parametrize("error", [LoadError("no such folder: x"), RuntimeError("no memory")], ids=["user's", "ours"])
async def test_a_load_that_fails_is_told_by_health_and_in_the_log(
    door: Door, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(config: Config) -> EngineVerbs:
        raise error

    service = assemble(door, load=fail)
    async with lifespan(service.app):
        await until(lambda: service.driver.status != "loading")
        health = await service.client.request("GET", "/health")
        assert (health.status, health.json()["status"]) == (503, f"failed to load: {error}")
        refused = await service.client.post(prompt="hello")
        assert refused.status == 503
        assert str(error) in refused.json()["detail"]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert str(error) in record.getMessage()
    assert bool(record.exc_info) == (not isinstance(error, LoadError))


async def test_shutdown_does_not_wait_for_a_load(door: Door) -> None:
    loading = Loading(ScriptedEngine())
    service = assemble(door, load=loading)
    async with lifespan(service.app):
        await until(loading.has_begun.is_set)
    loading.may_end.set()
    await until(lambda: all(thread.name != "load" for thread in threading.enumerate()))


async def test_without_the_lifespan_protocol_there_is_no_engine_and_health_says_so(door: Door) -> None:
    service = assemble(door)
    health = await service.client.request("GET", "/health")
    assert health.status == 503
    assert "lifespan" in health.json()["status"]
    assert (await service.client.post(prompt="hello")).status == 503
    assert (await service.client.request("GET", "/docs")).status == 200


async def test_lifespan_needs_no_state_in_its_scope(door: Door) -> None:
    service = assemble(door)

    async def without_state(scope: Any, receive: Any, send: Any) -> None:
        del scope["state"]
        await service.app(scope, receive, send)

    async with lifespan(without_state):
        await until(lambda: service.driver.status == "ok")
        assert (await service.client.post(prompt="hello")).status == 200


async def test_an_application_can_be_started_again(door: Door) -> None:
    service = assemble(door)
    for _ in range(2):
        async with lifespan(service.app):
            await until(lambda: service.driver.status == "ok")
            assert (await service.client.post(prompt="hello")).status == 200
        assert (await service.client.request("GET", "/health")).status == 503


async def test_a_driver_that_cannot_start_fails_the_startup(door: Door) -> None:
    class Broken(Driver):
        @contextlib.asynccontextmanager
        async def running(self) -> Any:
            raise RuntimeError("no threads left")
            yield

    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(RuntimeError, match="no threads left"):
        await door(Broken(Config()))({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)
    (message,) = sent
    assert message["type"] == "lifespan.startup.failed"
    assert "no threads left" in message["message"]


@streaming_or_not
async def test_shutdown_tells_open_requests(door: Door, stream: bool) -> None:
    service = assemble(door)
    async with contextlib.AsyncExitStack() as stack:
        async with lifespan(service.app):
            await until(lambda: service.driver.status == "ok")
            service.engine.hold()
            exchange = await stack.enter_async_context(service.client.open_generate("hello", stream))
            await until(lambda: service.engine.counters().running == 1)
        response = await exchange.response()
    if stream:
        assert events_of(response.body) == [{"error": {"message": "The server is shutting down", "type": "shutdown"}}]
    else:
        assert (response.status, response.json()) == (503, {"detail": "The server is shutting down"})
        assert int(response.headers["retry-after"]) >= 1


# --- Other scopes, and mistakes of our own ----------------------------------------------------------------------------


async def test_a_websocket_is_closed(door: Door) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "asgi": {"version": "3.0"}, "path": "/generate", "headers": [], "subprotocols": []}
    async with by_hand(door) as service:
        await service.app(scope, receive, send)
    (message,) = sent
    assert message["type"] == "websocket.close"
    assert message.get("code", 1000) == 1000


@pytest.mark.parametrize("kind", ["mqtt", "http2", ""])
async def test_a_scope_of_an_unknown_type_raises(door: Door, kind: str) -> None:
    async def never(*message: Any) -> Any:
        raise AssertionError("nothing can be known of this protocol's messages")

    async with by_hand(door) as service:
        with pytest.raises((ValueError, AssertionError), match=r"^(Expected a scope|$)"):
            await service.app({"type": kind, "asgi": {"version": "3.0"}}, never, never)


class Careless(ScriptedEngine):
    """Raises what nobody expects, where nobody expects it."""

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        raise ZeroDivisionError("a mistake")


async def test_a_mistake_of_our_own_is_500_and_is_raised_for_the_servers_log(door: Door) -> None:
    async with by_hand(door, Careless()) as service, service.client.open_generate("hello") as exchange:
        with pytest.raises(ZeroDivisionError):
            await exchange.end()
        response = exchange.collected()
    assert (response.status, response.json()) == (500, {"detail": "Internal Server Error"})
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert "mistake" not in response.body.decode()


async def test_a_mistake_after_the_start_is_raised_and_stops_the_request(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def break_off(events: Any) -> Any:
        yield b": fine so far\n\n"
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(contract, "sse_frames", break_off)
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("hello") as exchange:
            with pytest.raises(Exception, match=r".") as caught:
                await exchange.end()
            assert caught.group_contains(ZeroDivisionError) or isinstance(caught.value, ZeroDivisionError)
        assert [message["type"] for message in exchange.sent] == ["http.response.start", "http.response.body"]
        assert exchange.sent[-1]["more_body"] is True
        await until(lambda: service.engine.aborted == [1])


async def test_requests_in_flight_do_not_meet(door: Door) -> None:
    """Many at once, each with an id and an answer of its own."""
    async with by_hand(door) as service, contextlib.AsyncExitStack() as stack:
        exchanges = {}
        for n in range(1, 21):
            scope = http_scope("POST", "/generate", JSON | {"x-request-id": f"id-{n}"})
            exchanges[n] = await stack.enter_async_context(Exchange(service.app, scope, UVICORN))
        for n, exchange in reversed(exchanges.items()):
            exchange.send_body(json.dumps({"prompt": f"count {n}", "stream": n % 2 == 0}).encode())
        for n, exchange in exchanges.items():
            response = await exchange.response()
            assert response.headers["x-request-id"] == f"id-{n}"
            completion = events_of(response.body)[-1] if n % 2 == 0 else response.json()
            assert completion["completion_tokens"] == n


async def test_a_prompt_that_the_model_cannot_use_is_422_and_harms_nobody(door: Door) -> None:
    class Choosy(ScriptedEngine):
        def encode(self, request: GenerationRequest) -> EncodedRequest:
            if request.prompt == "☃":
                raise UnusablePrompt("no token for it")
            return super().encode(request)

    async with by_hand(door, Choosy()) as service:
        for stream in (True, False):
            (problem,) = (await service.client.post(prompt="☃", stream=stream)).problems()
            assert (problem["loc"], problem["msg"]) == (["body", "prompt"], "no token for it")
        assert (await service.client.post(prompt="hello")).status == 200

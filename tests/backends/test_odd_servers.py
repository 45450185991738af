"""The service in front of servers that die while they answer, answer nonsense, or cannot be reached."""

import gzip
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from backends import openai_server, remote
from backends.openai_server import OpenAIService
from config import Config
from interface.errors import EngineUnavailable, LoadError, QueueFull, RequestError
from interface.events import Failed
from interface.requests import GenerationRequest, SamplingParams
from serving.driver import Driver
from study.common.http_servers import serving
from tests.support.asgi_client import until
from tests.support.driving import terminal
from tests.support.fake_completions import FakeCompletions
from tests.support.odd_server import CHUNKED, DONE, STREAM, OddServer, event, whole
from tests.support.relaying import PROMPT, ask, driving_service, finished, joined

pytestmark = pytest.mark.anyio
COMPLETIONS = "/v1/completions"
CERTIFICATE = Path(__file__).parents[1] / "support" / "localhost.pem"
"""One for localhost, which has signed itself, and its key, which is no secret."""


def odd(*answer: bytes) -> OddServer:
    """A server whose completions are answered so."""
    models = {"data": [{"id": "theirs", "owned_by": "someone"}]}
    return OddServer({"/health": [whole(b"")], "/v1/models": [whole(models)], COMPLETIONS: answer})


def config_for(url: str, **settings: Any) -> Config:
    return Config(backend="openai", backend_url=url, model="theirs", context=512, **settings)


@asynccontextmanager
async def in_front_of(server: OddServer, **settings: Any) -> AsyncIterator[Driver]:
    async with (
        server.serving() as port,
        driving_service(OpenAIService, config_for(f"http://127.0.0.1:{port}", **settings)) as driver,
    ):
        yield driver


def piece(text: str | None, reason: str | None = None, **more: Any) -> bytes:
    return event({"choices": [{"text": text, "index": 0, "finish_reason": reason}], **more})


END = piece("", "stop") + DONE
CHUNK = b"%x\r\n%b\r\n" % (len(piece("a")), piece("a"))
BREAKS_OFF = {
    "without a word": (b"", "disconnected"),
    "in its head": (b"HTTP/1.1 200 OK\r\ncontent-ty", "disconnected"),
    "between events": (STREAM + piece("a"), "broke off before its end"),
    "between chunks": (CHUNKED + CHUNK, "incomplete chunked read"),
    "within JSON": (STREAM + piece("a") + b'data: {"choi', "broke off before its end"),
    "no JSON": (STREAM + b"data: {nope}\n\n" + END, "expected JSON in what /v1/completions answers, got {nope}"),
    "no object": (STREAM + b"data: null\n\n" + END, "expected an object .*, got None"),
    "another API's": (STREAM + event({"choices": [{"delta": {}}]}) + END, "expected another choices.0.text .*'delta'"),
    "numbers as words": (
        STREAM + piece("a") + event({"usage": {"completion_tokens": "one"}}) + END,
        "completion_tokens",
    ),
    "a usage of another shape": (STREAM + event({"usage": [1]}) + END, "expected another usage"),
    "choices without texts": (STREAM + event({"choices": [1]}) + END, "expected another choices.0 "),
    "a number for text": (STREAM + event({"choices": [{"text": 5}]}) + END, "choices.0.text"),
    "no log probabilities": (
        STREAM + event({"choices": [{"text": "a", "logprobs": {"tokens": 1}}]}) + END,
        "expected log",
    ),
    "half a character in a token": (
        STREAM + event({"choices": [{"text": "a", "logprobs": {"content": [{"token": "\ud83d"}]}}]}) + END,
        "expected another choices.0.logprobs",
    ),
    "half a character in a name": (
        STREAM + event({"choices": [{"text": "a", "stop_reason": "\ude00"}]}) + END,
        "expected another choices.0.stop_reason",
    ),
    "too many brackets": (STREAM + b"data: " + b"[" * 100_000 + b"\n\n" + END, r"expected JSON .*\[\["),
    "no stream": (whole({"choices": []}), "expected text/event-stream, got application/json"),
    "another protocol": (b"SSH-2.0-OpenSSH_9.0\r\n", "broke"),
    "not compressed": (STREAM.replace(b"connection", b"content-encoding: gzip\r\nconnection") + END, "decompress"),
    "error as text": (STREAM + event({"error": "out of memory"}), "has failed: out of memory"),
    "error with a word for its code": (STREAM + event({"error": {"message": "no", "code": "oom"}}), "has failed: no"),
    "error without a message": (STREAM + event({"error": {"type": "oom"}}), "has failed: .*oom"),
    "error by its status": (STREAM + event({"error": {"message": "no", "code": 400}}), "refuses this: no"),
    "error of old vLLMs": (STREAM + event({"object": "error", "message": "no", "code": 400}), "refuses this: no"),
    "error by its event": (STREAM + b"event: error\n" + event({"message": "no"}), "has failed: no"),
}


@pytest.mark.parametrize("name", BREAKS_OFF)
async def test_an_answer_that_breaks_off_or_makes_no_sense_fails_its_request_and_nothing_else(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer, says = BREAKS_OFF[name]
    server = odd(answer)
    async with in_front_of(server) as driver:
        assert re.search(says, await failure_of(driver))
        server.answers[COMPLETIONS] = [STREAM + piece("a") + END]
        assert joined(await ask(driver, GenerationRequest(PROMPT))) == "a"
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["Hi \ud83d", "\ude00!"], "Hi 😀!"),
        (["\ud83d", "\ude00\ud83d", "\ude01"], "😀😁"),
        (["\ud83d", "", "\ude00"], "😀"),
        (["a\ud83d", "b"], "a\ufffdb"),
        (["\ude00a"], "\ufffda"),
        (["a\ud83d"], "a\ufffd"),
    ],
)
async def test_a_character_whose_halves_come_in_two_pieces_is_joined(pieces: Sequence[str], text: str) -> None:
    async with in_front_of(odd(STREAM + b"".join(map(piece, pieces)) + END)) as driver:
        assert joined(await ask(driver, GenerationRequest(PROMPT))) == text


async def test_a_line_without_an_end_fails_its_request_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "LARGEST_EVENT", 10_000)
    server = odd(STREAM + piece("a") + b"data: " + b"a" * 20_000)
    async with in_front_of(server) as driver:
        assert "exceeded the 10000 byte limit" in await failure_of(driver)
        server.answers[COMPLETIONS] = [STREAM + piece("a" * 9_000) + END]
        assert joined(await ask(driver, GenerationRequest(PROMPT))) == "a" * 9_000


UNENDING = STREAM.replace(b"close\r\n", b"keep-alive\r\ncontent-length: 100000\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        UNENDING,
        UNENDING + piece("a"),
        UNENDING.replace(b"200 OK", b"400 Bad Request") + b"half an error",
    ],
    ids=["no head", "a head", "a piece", "half an error"],
)
async def test_an_answer_that_hangs_fails_its_request_after_a_while_and_nothing_else(answer: bytes) -> None:
    server = odd(answer)
    async with in_front_of(server, backend_silence=0.2) as driver:
        server.holds = True
        assert re.search(r"has sent nothing for 0\.2 s \(ENGINE_BACKEND_SILENCE\)", await failure_of(driver))
        server.holds = False
        server.answers[COMPLETIONS] = [STREAM + piece("a") + END]
        assert joined(await ask(driver, GenerationRequest(PROMPT))) == "a"


async def test_a_text_is_complete_at_its_end_whatever_the_server_does_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_server, "USAGE_LIMIT", 0.02)
    for after in (b"", event({"choices": [], "usage": [1]}), b"data: {nope}\n\n"):
        async with in_front_of(odd(UNENDING + piece("a") + piece("", "length") + after)) as driver:
            events = await ask(driver, GenerationRequest(PROMPT))
        assert (joined(events), finished(events).finish_reason) == ("a", "length")


async def test_no_answer_is_read_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LARGEST_ANSWER", 10_000)
    monkeypatch.setattr(remote, "LARGEST_ERROR", 10_000)
    filler = gzip.compress(bytes(4 * 2**20))  # a few kilobytes
    compressed = {"content-encoding": "gzip"}
    server = odd(whole(b"too much" + filler, "400 Bad Request"))
    async with in_front_of(server) as driver:
        assert "refuses this: too much" in await failure_of(driver)
        server.answers[COMPLETIONS] = [whole(filler, "500 Oops", compressed)]
        assert "has failed" in await failure_of(driver)
    assert "expected at most 10000 bytes in what /v1/models answers" in await reason_not_to_start(
        {"/health": [whole(b"")], "/v1/models": [whole(filler, headers=compressed)]}
    )


@pytest.mark.parametrize(("value", "seconds"), [("17", 17), ("Fri, 31 Dec 1999 23:59:59 GMT", None), ("9" * 50, None)])
async def test_a_server_that_says_when_to_come_back_is_heard(value: str, seconds: int | None) -> None:
    for status in ("429 Too Many Requests", "503 Service Unavailable"):
        async with in_front_of(odd(whole(b"later", status, {"retry-after": value}))) as driver:
            with pytest.raises(QueueFull) as caught:
                await driver.submit([GenerationRequest(PROMPT)], "an-id")
        assert caught.value.retry_after == seconds


async def failure_of(driver: Driver) -> str:
    """The failure of a request, at once or in its stream."""
    try:
        end = terminal(await ask(driver, GenerationRequest(PROMPT)))
    except (EngineUnavailable, RequestError) as error:
        return str(error)
    assert isinstance(end, Failed)
    return end.message


EMPTY_USAGE = {"prompt_tokens": None, "completion_tokens": None, "prompt_tokens_details": None}
READS = {
    "each byte by itself": ([STREAM, *(bytes([one]) for one in piece("né你😀") + END)], "né你😀"),
    "line ends and comments": ([STREAM + b": ping\r\n\r\n" + (piece("a") + END).replace(b"\n", b"\r\n")], "a"),
    "null for text": ([STREAM + piece(None) + piece("a") + END], "a"),
    "something else between": (
        [STREAM + event({"object": "ping", "error": None}) + event({"choices": None}) + piece("a") + END],
        "a",
    ),
    "without usage or DONE": ([STREAM + piece("a") + piece("", "stop")], "a"),
    "usage without numbers": ([STREAM + piece("a") + event({"choices": [], "usage": EMPTY_USAGE}) + END], "a"),
    "a long line": ([STREAM + piece("long " * 400_000) + END], "long " * 400_000),
}


@pytest.mark.parametrize("name", READS)
async def test_what_servers_do_differently_is_read(name: str) -> None:
    pieces, text = READS[name]
    async with in_front_of(odd(*pieces)) as driver:
        events = await ask(driver, GenerationRequest(PROMPT))
    assert joined(events) == text
    end = finished(events)
    assert (end.finish_reason, end.prompt_tokens, end.completion_tokens) == ("stop", 0, 1)


async def test_alternatives_that_a_server_leaves_out_are_none() -> None:
    logprobs = {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [None]}
    chunk = event({"choices": [{"text": "a", "logprobs": logprobs}]})
    async with in_front_of(odd(STREAM + chunk + END)) as driver:
        first, *_ = await ask(driver, GenerationRequest(PROMPT, SamplingParams(logprobs=1)))
    assert first.logprobs.top == ()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        ("400 Bad Request", {"object": "error", "message": "too long", "code": 400}, RequestError, "this: too long"),
        ("404 Not Found", {"error": {"message": "no such model"}}, RequestError, "this: no such model"),
        ("422 Unprocessable", {"detail": [{"loc": ["n"], "msg": "too big"}]}, RequestError, "too big"),
        ("413 Too Large", b"too large", RequestError, "this: too large"),
        ("408 Timeout", b"", EngineUnavailable, "has failed: status 408"),
        ("429 Too Many", {"message": "slower"}, QueueFull, "no more requests: slower"),
        ("403 Forbidden", {"error": "not yours"}, EngineUnavailable, r"ENGINE_BACKEND_KEY\): not yours"),
        ("502 Bad Gateway", b"<html>bad gateway</html>", EngineUnavailable, "has failed: <html>bad"),
        ("500 Oops", b"", EngineUnavailable, "has failed: status 500"),
    ],
)
async def test_a_refusal_of_any_shape_comes_through(status: str, body: Any, error: type[Exception], says: str) -> None:
    async with in_front_of(odd(whole(body, status))) as driver:
        with pytest.raises(error, match=says):
            await driver.submit([GenerationRequest(PROMPT)], "an-id")


async def test_a_redirect_is_an_error_with_its_location() -> None:
    moved = whole(b"", "307 Temporary Redirect", {"location": "https://elsewhere/v1/completions"})
    async with in_front_of(odd(moved)) as driver:
        with pytest.raises(EngineUnavailable, match=r"\(ENGINE_BACKEND_URL\): .* leads to https://elsewhere/v1/comp"):
            await driver.submit([GenerationRequest(PROMPT)], "an-id")


async def reason_not_to_start(answers: dict[str, Sequence[bytes]]) -> str:
    async with in_front_of(OddServer(answers)) as driver:
        assert driver.vitals().has_failed
        return driver.status


PAGE = whole(b"<!doctype html><html>", headers={"content-type": "text/html"})


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"/health": [whole(b"", "301 Moved", {"location": "https://there/"})]}, "leads to https://there/"),
        ({"/health": [whole({"error": "who?"}, "401 Unauthorized")]}, "another key (ENGINE_BACKEND_KEY): who?"),
        ({"/health": [PAGE], "/v1/models": [PAGE]}, "expected JSON in what /v1/models answers, got <!doctype html>"),
        ({"/v1/models": [whole({"object": "list"})]}, "expected 'data' in what /v1/models answers"),
        ({}, "refuses this: status 404"),
    ],
)
async def test_what_waiting_does_not_mend_is_said_at_the_start(answers: dict[str, list[bytes]], says: str) -> None:
    assert says in await reason_not_to_start(dict(answers))


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(LoadError, match="ENGINE_BACKEND_URL: expected a URL, got http://host:port"):
        OpenAIService(config_for("http://host:port"))


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
async def test_a_url_may_have_a_path_and_end_as_openais_clients_want_it(ending: str) -> None:
    behind = Starlette(routes=[Mount("/a/model", FakeCompletions(["a"]).app)])
    async with serving(behind) as port:
        settings = {"ENGINE_BACKEND": "openai", "ENGINE_BACKEND_URL": f"http://127.0.0.1:{port}/a/model{ending}"}
        config = Config.from_environment(settings | {"ENGINE_MODEL": "theirs"})
        async with driving_service(OpenAIService, config) as driver:
            assert joined(await ask(driver, GenerationRequest(PROMPT))) == "a"


async def test_a_server_that_comes_back_with_another_model_is_not_asked() -> None:
    server, models = odd(STREAM + piece("a") + END), {"data": [{"id": "another", "owned_by": "someone"}]}
    async with AsyncExitStack() as life:
        port = await life.enter_async_context(server.serving())
        async with driving_service(OpenAIService, config_for(f"http://127.0.0.1:{port}")) as driver:
            right = server.answers["/v1/models"]
            server.answers |= {"/health": [whole(b"", "500 Oops")], "/v1/models": [whole(models)]}
            await until(lambda: "has failed" in driver.status)
            server.answers["/health"] = [whole(b"")]
            await until(lambda: "offers a model (another), got theirs" in driver.status)
            server.answers["/v1/models"] = right
            await until(lambda: driver.status == "ok")
            assert joined(await ask(driver, GenerationRequest(PROMPT))) == "a"


async def test_a_server_that_freezes_is_gone_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    server = odd(STREAM + piece("a") + END)
    async with in_front_of(server) as driver:
        monkeypatch.setattr(remote, "PROBE_LIMIT", 0.02)
        well, server.answers["/health"] = server.answers["/health"], [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"]
        await until(lambda: "takes too long to answer" in driver.status)
        monkeypatch.setattr(remote, "PROBE_LIMIT", 10)
        server.answers["/health"] = well
        await until(lambda: driver.status == "ok")


async def test_a_certificate_that_is_not_known_is_named_and_one_that_is_known_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    async with odd(STREAM + piece("a") + END).serving(ssl=context) as port:
        config = config_for(f"https://localhost:{port}")
        stranger = remote.Server(config)
        with pytest.raises(remote.NoServer, match="certificate verify failed"):
            await stranger.problem("/health")
        await stranger.close()
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        async with driving_service(OpenAIService, config) as driver:
            assert joined(await ask(driver, GenerationRequest(PROMPT))) == "a"

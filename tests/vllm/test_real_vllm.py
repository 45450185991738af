"""A door with the real vLLM behind it answers as one with our own engine does."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from engine import Engine
from interface.requests import ChatPrompt
from study.chaos import shared_memory_of
from study.common.launcher import Process, children_of, command_line_of
from tests.vllm.conftest import started

PROMPTS = ["The capital of France is", "def fibonacci(n):", "Once upon a time, é 你好"]
CHAT: list[dict[str, Any]] = [{"role": "user", "content": "Name three colours."}]
STREAMS = 32
LIMIT = 300.0
"""Seconds that anything may take: on busy cores vLLM makes a token in seconds."""


@pytest.fixture
def http(server: Process) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=LIMIT) as client:
        yield client


def post(http: httpx2.Client, path: str, **body: Any) -> Any:
    response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def events(http: httpx2.Client, **body: Any) -> list[dict[str, Any]]:
    """The events of a stream of /generate."""
    with http.stream("POST", "/generate", json={"stream": True, **body}) as response:
        return [json.loads(event.data) for event in httpx2.EventSource(response) if event.data != "[DONE]"]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_is_that_of_our_own_engine_whole_and_streamed(
    http: httpx2.Client, ours: Engine, prompt: str
) -> None:
    expected = ours.generate(prompt, temperature=0, max_tokens=32)
    whole = post(http, "/generate", prompt=prompt, temperature=0, max_tokens=32)
    assert {name: whole[name] for name in ("text", "token_ids", "finish_reason", "prompt_tokens")} == {
        name: expected[name] for name in ("text", "token_ids", "finish_reason", "prompt_tokens")
    }
    *tokens, end = events(http, prompt=prompt, temperature=0, max_tokens=32)
    assert "".join(token["token"] for token in tokens) == expected["text"]
    assert len(tokens) == end["completion_tokens"] == expected["completion_tokens"]


def test_greedy_text_is_that_of_our_own_engine_through_every_api(http: httpx2.Client, ours: Engine) -> None:
    expected = ours.generate(ChatPrompt(CHAT), temperature=0, max_tokens=24)["text"]
    common: dict[str, Any] = {"model": "SmolLM2", "temperature": 0}
    chat = post(http, "/v1/chat/completions", messages=CHAT, max_tokens=24, **common)
    assert chat["choices"][0]["message"]["content"] == expected
    response = post(http, "/v1/responses", input=CHAT[0]["content"], max_output_tokens=24, **common)
    assert response["output"][0]["content"][0]["text"] == expected
    message = post(http, "/v1/messages", messages=CHAT, max_tokens=24, **common)
    assert message["content"][0]["text"] == expected
    text = post(http, "/v1/completions", prompt=PROMPTS[0], max_tokens=24, **common)["choices"][0]["text"]
    assert text == ours.generate(PROMPTS[0], temperature=0, max_tokens=24)["text"]


def test_log_probabilities_are_those_of_our_own_engine(http: httpx2.Client, ours: Engine) -> None:
    expected = ours.generate(PROMPTS[0], temperature=0, max_tokens=4, logprobs=2)["logprobs"]
    found = post(http, "/generate", prompt=PROMPTS[0], temperature=0, max_tokens=4, logprobs=2)["logprobs"]
    for one, other in zip(found, expected, strict=True):
        assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-3)
        assert [its["token_id"] for its in one["top"]] == [its["token_id"] for its in other["top"]]
    echoed = post(http, "/v1/completions", prompt=PROMPTS[0], max_tokens=1, echo=True, logprobs=1)["choices"][0]
    assert echoed["text"].startswith(PROMPTS[0])
    assert echoed["logprobs"]["token_logprobs"][0] is None
    assert all(logprob < 0 for logprob in echoed["logprobs"]["token_logprobs"][1:])


def test_choices_seeds_penalties_and_limits(http: httpx2.Client) -> None:
    common: dict[str, Any] = {"prompt": PROMPTS[0], "max_tokens": 8}
    choices = post(http, "/v1/completions", n=3, temperature=1, seed=7, **common)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    again = post(http, "/v1/completions", n=3, temperature=1, seed=7, **common)["choices"]
    assert [choice["text"] for choice in again] == [choice["text"] for choice in choices]
    greedy = post(http, "/generate", temperature=0, **common)
    banned = post(http, "/generate", temperature=0, logit_bias={greedy["token_ids"][0]: -100}, **common)
    assert banned["token_ids"][0] != greedy["token_ids"][0]
    assert len(set(post(http, "/generate", temperature=0, frequency_penalty=2.0, **common)["token_ids"])) == 8
    stopped = post(http, "/generate", temperature=0, stop=" Paris", **common)
    assert (stopped["text"], stopped["finish_reason"]) == ("", "stop")
    ended = post(http, "/generate", temperature=0, stop_token_ids=[greedy["token_ids"][1]], min_tokens=4, **common)
    assert ended["completion_tokens"] >= 4


def test_answers_keep_to_grammars_and_forced_tools(http: httpx2.Client) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2, 3]}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    chat = post(http, "/v1/chat/completions", messages=CHAT, response_format=wanted, temperature=0)
    assert json.loads(chat["choices"][0]["message"]["content"])["n"] in (1, 2, 3)
    chosen = post(http, "/v1/chat/completions", messages=CHAT, structured_outputs={"choice": ["red", "blue"]})
    assert chosen["choices"][0]["message"]["content"] in ("red", "blue")
    parameters = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    tool = {"type": "function", "function": {"name": "light", "parameters": parameters}}
    called = post(http, "/v1/chat/completions", messages=CHAT, tools=[tool], tool_choice="required", temperature=0)
    [call] = called["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "light"
    assert isinstance(json.loads(call["function"]["arguments"])["on"], bool)


def test_a_prompt_seen_before_comes_from_vllms_cache(http: httpx2.Client) -> None:
    prompt = "A long beginning, which repeats itself. " * 40
    post(http, "/generate", prompt=prompt, max_tokens=1)
    assert post(http, "/generate", prompt=prompt, max_tokens=1)["cached_tokens"] > 100


def test_what_does_not_fit_is_refused(http: httpx2.Client) -> None:
    too_long = http.post("/generate", json={"prompt": "word " * 2000})
    assert too_long.status_code == 422
    assert "the context holds 1024" in too_long.text
    assert http.post("/generate", json={"prompt": "x", "logit_bias": {"99999999": 1}}).status_code == 422


def test_a_client_that_leaves_ends_its_sequence(http: httpx2.Client) -> None:
    with http.stream("POST", "/generate", json=endless("Tell me")) as response:
        events = iter(httpx2.EventSource(response))  # kept: an iterator that is dropped closes the connection
        next(events)
        assert http.get("/health").json()["running"] == 1
    wait_for(lambda: http.get("/health").json()["running"] == 0)


def test_killing_a_busy_engine_process_ends_every_stream_with_an_error(model: Path) -> None:
    with started(model, ENGINE_ON_FAILURE="stay") as server:
        asyncio.run(_kill_under_load(server))


def test_killing_an_idle_engine_process_ends_the_server_which_leaves_nothing(model: Path) -> None:
    with started(model) as server:
        family = family_of(server.popen.pid)
        shared = shared_memory_of_all(family)
        os.kill(engine_process(server), signal.SIGKILL)
        assert server.wait() == 70
        wait_for(lambda: not any(command_line_of(pid) for pid in family))
        assert not any(map(os.path.exists, shared))


@pytest.mark.parametrize("end", [Process.terminate, Process.interrupt_all], ids=["SIGTERM", "Ctrl-C"])
def test_ending_the_server_lets_streams_end_and_then_ends_vllm(model: Path, end: Callable[[Process], None]) -> None:
    with started(model, ENGINE_DRAIN=str(LIMIT)) as server, ThreadPoolExecutor() as threads:
        family = family_of(server.popen.pid)
        shared = shared_memory_of_all(family)
        reading = threads.submit(last_event, server.port, endless("Tell") | {"max_tokens": 60})
        wait_for(lambda: health(server.port)["running"] == 1)
        end(server)
        assert reading.result(LIMIT)["completion_tokens"] == 60
        server.wait()
        wait_for(lambda: not any(command_line_of(pid) for pid in family))
        assert not any(map(os.path.exists, shared))
        assert "Traceback" not in server.log


async def _kill_under_load(server: Process) -> None:
    url = f"http://127.0.0.1:{server.port}"
    last: dict[int, str] = {}

    async def read(client: httpx2.AsyncClient, number: int) -> None:
        async with client.stream("POST", f"{url}/generate", json=endless(f"Story {number}")) as response:
            async for event in httpx2.EventSource(response):
                if event.data != "[DONE]":
                    last[number] = event.data

    async with httpx2.AsyncClient(timeout=LIMIT, limits=httpx2.Limits(max_connections=100)) as client:
        async with asyncio.TaskGroup() as tasks:
            for number in range(STREAMS):
                tasks.create_task(read(client, number))
            while len(last) < STREAMS:  # noqa: ASYNC110  (several tasks change it)
                await asyncio.sleep(0.05)
            os.kill(engine_process(server), signal.SIGKILL)
        ends = [json.loads(event).get("error", {}).get("message") for event in last.values()]
        assert ends == ["vLLM's engine process has ended"] * STREAMS
        assert (await client.get(f"{url}/health")).status_code == 503
        assert (await client.get(f"{url}/live")).status_code == 503
        refused = await client.post(f"{url}/generate", json={"prompt": "x"})
        assert refused.status_code in (500, 503)


def endless(prompt: str) -> dict[str, Any]:
    return {"prompt": prompt, "stream": True, "max_tokens": 900, "ignore_eos": True}


def last_event(port: int, body: dict[str, Any]) -> Any:
    with httpx2.stream("POST", f"http://127.0.0.1:{port}/generate", json=body, timeout=LIMIT) as response:
        *_, last = [event.data for event in httpx2.EventSource(response) if event.data != "[DONE]"]
    return json.loads(last)


def health(port: int) -> Any:
    return httpx2.get(f"http://127.0.0.1:{port}/health", timeout=LIMIT).json()


def family_of(pid: int) -> list[int]:
    """A process and all that it has started, directly or not."""
    return [pid, *(one for child in children_of(pid) for one in family_of(child))]


def shared_memory_of_all(family: list[int]) -> set[str]:
    """The files in /dev/shm that these processes hold; there is some, or else this test would show nothing."""
    found = set().union(*map(shared_memory_of, family))
    assert found
    return found


def engine_process(server: Process) -> int:
    [pid] = [pid for pid in children_of(server.popen.pid) if "EngineCore" in command_line_of(pid)]
    return pid


def wait_for(condition: Any) -> None:
    give_up_at = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < give_up_at, "it did not come about"
        time.sleep(0.1)

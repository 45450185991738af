"""The service with vLLM behind it, on a fake of the few calls that it makes; `make test-vllm` has the real one."""

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends import vllm_engine
from backends.vllm_engine import VllmService, engine_settings, load
from config import Config
from interface.errors import LoadError, QueueFull, RequestError
from interface.events import Failed, PromptEcho
from interface.requests import GenerationRequest, Grammar, SamplingParams, TextPrompt
from serving.driver import Driver
from tests.support.asgi_client import until
from tests.support.driving import all_events, terminal
from tests.support.fake_vllm import FakeAsyncLLM
from tests.support.relaying import (
    ANSWER,
    EOS,
    PROMPT,
    ask,
    bundled_text,
    driving_service,
    finished,
    ids_of,
    joined,
    tokens_of,
)


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_engine, "WATCH_INTERVAL", 0.02)


@pytest.fixture
def fake() -> FakeAsyncLLM:
    return FakeAsyncLLM([*ids_of(ANSWER), EOS])


@asynccontextmanager
async def in_front_of(fake: FakeAsyncLLM, **settings: Any) -> AsyncIterator[Driver]:
    config = Config(backend="vllm", on_failure="stay", **settings)
    async with driving_service(lambda config: VllmService(config, bundled_text(), fake, dict), config) as driver:
        yield driver


@pytest.mark.anyio
@pytest.mark.parametrize("coalesces", [1, 3])
async def test_an_answer_comes_through_token_by_token(fake: FakeAsyncLLM, coalesces: int) -> None:
    fake.coalesces = coalesces
    async with in_front_of(fake) as driver:
        events = await ask(driver, GenerationRequest(PROMPT))
    assert joined(events) == ANSWER
    assert [token.token_id for token in tokens_of(events)] == fake.answer
    end = finished(events)
    assert (end.finish_reason, end.completion_tokens, end.cached_tokens) == ("stop", len(fake.answer), 3)
    assert fake.prompts == [list(bundled_text().tokenize(PROMPT).token_ids)]
    assert fake.aborted == []


@pytest.mark.anyio
async def test_every_sampling_parameter_is_passed_on_under_vllms_name(fake: FakeAsyncLLM) -> None:
    params = SamplingParams(
        max_tokens=5,
        min_tokens=1,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        repetition_penalty=1.1,
        logit_bias={5: 1.5},
        seed=-3,
        stop_token_ids=[9],
        logprobs=1,
    )
    async with in_front_of(fake) as driver:
        await ask(driver, GenerationRequest(PROMPT, params, Grammar("regex", "T.*")))
    assert fake.params == [
        {
            "max_tokens": 5,
            "min_tokens": 1,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 7,
            "min_p": 0.1,
            "presence_penalty": 0.2,
            "frequency_penalty": 0.3,
            "repetition_penalty": 1.1,
            "logit_bias": {5: 1.5},
            "seed": 2**63 - 3,
            "stop_token_ids": [EOS, 9],
            "ignore_eos": True,
            "logprobs": 1,
            "grammar": "start: /T.*/",
        }
    ]


@pytest.mark.anyio
async def test_ignoring_the_end_leaves_only_the_requests_own_stop_tokens(fake: FakeAsyncLLM) -> None:
    async with in_front_of(fake) as driver:
        events = await ask(driver, GenerationRequest(PROMPT, SamplingParams(ignore_eos=True, stop_token_ids=[9])))
    assert fake.params[0]["stop_token_ids"] == [9]
    assert joined(events) == ANSWER


@pytest.mark.anyio
async def test_a_stop_string_is_found_here_and_ends_vllms_sequence(fake: FakeAsyncLLM) -> None:
    async with in_front_of(fake) as driver:
        events = await ask(driver, GenerationRequest(PROMPT, SamplingParams(stop=["4,"])))
        await until(lambda: fake.running == 0)
    assert joined(events) == "The answer is "
    assert finished(events).stop_reason == "4,"
    assert len(fake.aborted) == 1


@pytest.mark.anyio
async def test_log_probabilities_of_answer_and_prompt_come_through(fake: FakeAsyncLLM) -> None:
    request = GenerationRequest(PROMPT, SamplingParams(logprobs=2), echo=True, prompt_logprobs=True)
    async with in_front_of(fake) as driver:
        echo, *rest = await ask(driver, request)
    assert isinstance(echo, PromptEcho)
    assert echo.text == PROMPT.text
    assert [token.chosen.logprob for token in echo.tokens][:2] == [None, -4.5]
    first = tokens_of(rest)[0].logprobs
    assert first is not None
    assert (first.chosen.token_id, first.chosen.logprob) == (fake.answer[0], -4.5)
    assert [(alternative.token_id, alternative.logprob) for alternative in first.top] == [(7, -0.5), (8, -1.5)]


@pytest.mark.anyio
async def test_an_abort_ends_the_sequence_in_vllm(fake: FakeAsyncLLM) -> None:
    fake.may_go_on.clear()
    async with in_front_of(fake) as driver:
        generation = await driver.submit([GenerationRequest(PROMPT), GenerationRequest(PROMPT, index=1)], "an-id")
        await until(lambda: fake.running == 2)
        assert driver.counters().waiting == 2
        driver.forget(generation)
        await until(lambda: fake.running == 0)
        assert len(fake.aborted) == 2
        assert driver.counters().waiting == 0


@pytest.mark.anyio
async def test_what_vllm_refuses_ends_the_stream_in_its_words(fake: FakeAsyncLLM) -> None:
    fake.refusal = ValueError("this model has no such head")
    async with in_front_of(fake) as driver:
        end = terminal(await ask(driver, GenerationRequest(PROMPT)))
        assert isinstance(end, Failed)
        assert "vLLM refuses this: this model has no such head" in end.message
        assert driver.status == "ok"


@pytest.mark.anyio
async def test_what_vllm_could_not_finish_has_failed(fake: FakeAsyncLLM) -> None:
    fake.finish_reason = "error"
    async with in_front_of(fake) as driver:
        assert isinstance((await ask(driver, GenerationRequest(PROMPT)))[-1], Failed)


@pytest.mark.anyio
async def test_what_the_model_cannot_take_is_refused_before_vllm_sees_it(fake: FakeAsyncLLM) -> None:
    async with in_front_of(fake) as driver:
        with pytest.raises(RequestError, match="logit_bias"):
            await driver.submit([GenerationRequest(PROMPT, SamplingParams(logit_bias={10**6: 1.0}))], "an-id")
        with pytest.raises(RequestError, match="the context holds 2048"):
            await driver.submit([GenerationRequest(TextPrompt("word " * 3000))], "an-id")
    assert fake.prompts == []


@pytest.mark.anyio
async def test_more_than_the_limit_are_refused(fake: FakeAsyncLLM) -> None:
    fake.may_go_on.clear()
    async with in_front_of(fake, max_streams=1, max_waiting=0) as driver:
        await driver.submit([GenerationRequest(PROMPT)], "an-id")
        with pytest.raises(QueueFull):
            await driver.submit([GenerationRequest(PROMPT)], "an-id")


@pytest.mark.anyio
async def test_the_death_of_an_idle_engine_is_noticed(fake: FakeAsyncLLM) -> None:
    async with in_front_of(fake) as driver:
        fake.die()
        await until(lambda: driver.vitals().has_failed)
        assert driver.status == "engine failed: vLLM's engine process has ended"


@pytest.mark.anyio
async def test_the_death_of_a_busy_engine_ends_every_stream_once(fake: FakeAsyncLLM) -> None:
    fake.may_go_on.clear()
    async with in_front_of(fake) as driver:
        generations = [await driver.submit([GenerationRequest(PROMPT)], "an-id") for _ in range(3)]
        await until(lambda: fake.running == 3)
        fake.die()
        for generation in generations:
            end = terminal(await all_events(generation))
            assert isinstance(end, Failed)
            assert end.message == "vLLM's engine process has ended"


@pytest.mark.anyio
async def test_vllm_is_shut_down_with_the_server(fake: FakeAsyncLLM) -> None:
    fake.may_go_on.clear()
    async with in_front_of(fake) as driver:
        await driver.submit([GenerationRequest(PROMPT)], "an-id")
        assert not fake.is_shut_down
    assert fake.is_shut_down
    assert fake.running == 0


@pytest.mark.anyio
async def test_vllms_reader_does_not_take_the_shutdown_for_a_failure(fake: FakeAsyncLLM) -> None:
    async with in_front_of(fake) as driver:
        await ask(driver, GenerationRequest(PROMPT))
    await until(lambda: fake.output_handler is not None and fake.output_handler.done())
    assert not fake.has_logged_a_traceback


def test_our_settings_are_given_to_vllm_under_its_names() -> None:
    settings = engine_settings(Config(max_streams=3, dtype="float32"), bundled_text())
    assert settings["max_num_seqs"] == 3
    assert settings["max_model_len"] == bundled_text().info.context == 2048
    assert settings["dtype"] == "float32"


class StandInForVllm:
    """The names of vLLM that `load` uses. `is_deaf` is whether what it starts would not hear Ctrl-C."""

    AsyncEngineArgs = dict
    is_deaf = False

    def __init__(self) -> None:
        self.AsyncLLM = self
        self.sampling_params = dict

    def from_engine_args(self, settings: Any) -> FakeAsyncLLM:
        type(self).is_deaf = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return FakeAsyncLLM([])


def test_the_processes_of_vllm_do_not_hear_ctrl_c_and_this_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal sends it to all; the streams may come to their ends before vLLM does."""
    monkeypatch.setattr(vllm_engine, "_import_vllm", StandInForVllm)
    load(Config(backend="vllm"))
    assert StandInForVllm.is_deaf
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_without_vllm_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(LoadError, match=r"needs vLLM, in an environment of its own: make \.venv-vllm"):
        load(Config(backend="vllm"))

"""The service in front of SGLang, tested on a fake of its server."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from backends import remote
from backends.sglang_server import SGLangService
from backends.token_relay import Made, TokenRelay
from config import Config
from interface.engine import EngineService
from interface.errors import EngineUnavailable, QueueFull, RequestError, UnsupportedFeature
from interface.events import Failed, Finished, PromptEcho
from interface.requests import ChatPrompt, GenerationRequest, Grammar, SamplingParams, TokenPrompt
from serving.driver import Driver
from study.common.http_servers import serving
from tests.support.asgi_client import until
from tests.support.driving import all_events, terminal
from tests.support.fake_sglang import FakeSGLang
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


@pytest.fixture
def fake() -> FakeSGLang:
    return FakeSGLang(ids_of, ids_of(ANSWER), EOS)


def service_of(config: Config) -> EngineService:
    return SGLangService(config, bundled_text())


def config_for(port: int, **settings: Any) -> Config:
    return Config(backend="sglang", backend_url=f"http://127.0.0.1:{port}", **settings)


@asynccontextmanager
async def in_front_of(fake: FakeSGLang, **settings: Any) -> AsyncIterator[Driver]:
    """A driver whose engine is the fake server."""
    async with serving(fake.app) as port, driving_service(service_of, config_for(port, **settings)) as driver:
        try:
            yield driver
        finally:
            fake.release()


@pytest.mark.anyio
@pytest.mark.parametrize("is_incremental", [False, True])
@pytest.mark.parametrize("coalesces", [1, 3])
async def test_an_answer_comes_through_token_by_token(fake: FakeSGLang, is_incremental: bool, coalesces: int) -> None:
    fake.is_incremental, fake.coalesces = is_incremental, coalesces
    async with in_front_of(fake) as driver:
        events = await ask(driver, GenerationRequest(PROMPT))
    tokens = tokens_of(events)
    assert joined(events) == ANSWER
    assert [token.token_id for token in tokens] == [*fake.answer, EOS]
    end = finished(events)
    assert (end.finish_reason, end.completion_tokens, end.cached_tokens) == ("stop", len(fake.answer) + 1, 2)
    assert end.prompt_tokens == len(fake.requests[0]["input_ids"]) > 0
    assert fake.aborted == []


@pytest.mark.anyio
async def test_a_conversation_is_rendered_here_with_the_models_template(fake: FakeSGLang) -> None:
    prompt = ChatPrompt([{"role": "user", "content": "What is 2 + 2?"}])
    async with in_front_of(fake) as driver:
        await ask(driver, GenerationRequest(prompt))
    assert fake.requests[0]["input_ids"] == list(bundled_text().tokenize(prompt).token_ids)


@pytest.mark.anyio
async def test_a_stop_string_is_found_here_and_the_server_told_to_stop(fake: FakeSGLang) -> None:
    request = GenerationRequest(PROMPT, SamplingParams(stop=["4,"]))
    async with in_front_of(fake) as driver:
        events = await ask(driver, request)
        await until(lambda: fake.aborted == [fake.requests[0]["rid"]])
    assert joined(events) == "The answer is "
    assert finished(events).stop_reason == "4,"


@pytest.mark.anyio
async def test_max_tokens_ends_with_the_reason_length(fake: FakeSGLang) -> None:
    async with in_front_of(fake) as driver:
        events = await ask(driver, GenerationRequest(PROMPT, SamplingParams(max_tokens=2)))
    assert (finished(events).finish_reason, finished(events).completion_tokens) == ("length", 2)


@pytest.mark.anyio
async def test_every_sampling_parameter_is_passed_on_under_sglangs_name(fake: FakeSGLang) -> None:
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
        seed=3,
        stop_token_ids=[9],
        ignore_eos=True,
    )
    async with in_front_of(fake) as driver:
        await ask(driver, GenerationRequest(PROMPT, params))
    assert fake.requests[0]["sampling_params"] == {
        "max_new_tokens": 5,
        "min_new_tokens": 1,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "repetition_penalty": 1.1,
        "logit_bias": {"5": 1.5},
        "sampling_seed": 3,
        "stop_token_ids": [9],
        "ignore_eos": True,
    }


@pytest.mark.anyio
async def test_log_probabilities_of_answer_and_prompt_come_through(fake: FakeSGLang) -> None:
    request = GenerationRequest(PROMPT, SamplingParams(logprobs=2), echo=True, prompt_logprobs=True)
    async with in_front_of(fake) as driver:
        echo, *rest = await ask(driver, request)
    assert isinstance(echo, PromptEcho)
    assert echo.text == PROMPT.text
    assert [token.chosen.logprob for token in echo.tokens] == [None, *(-1.5 - n for n in range(1, len(echo.tokens)))]
    assert [len(token.top) for token in echo.tokens] == [0, *[2] * (len(echo.tokens) - 1)]
    first = tokens_of(rest)[0].logprobs
    assert first is not None
    assert [alternative.token_id for alternative in first.top] == [7, 8]
    assert (first.chosen.token_id, first.chosen.logprob) == (fake.answer[0], -0.5)


def test_an_engine_may_end_an_answer_without_a_last_token() -> None:
    text = bundled_text()
    relay = TokenRelay(text.encode([GenerationRequest(PROMPT, SamplingParams(max_tokens=50))])[0], text)
    assert len(list(relay.events_of(Made(ids_of("yes"))))) == len(ids_of("yes"))
    assert not relay.is_finished
    assert finished(list(relay.events_of(Made((), "length")))).finish_reason == "length"
    assert relay.is_finished


@pytest.mark.anyio
@pytest.mark.parametrize("coalesces", [1, 3])
async def test_each_token_has_its_own_log_probability_however_many_come_at_once(
    fake: FakeSGLang, coalesces: int
) -> None:
    fake.coalesces = coalesces
    async with in_front_of(fake) as driver:
        tokens = tokens_of(await ask(driver, GenerationRequest(PROMPT, SamplingParams(logprobs=1))))
    assert len(tokens) > coalesces
    chosen = [None if token.logprobs is None else token.logprobs.chosen.token_id for token in tokens]
    assert chosen == [token.token_id for token in tokens]


@pytest.mark.anyio
async def test_an_abort_closes_the_connection_and_says_so(fake: FakeSGLang) -> None:
    fake.hold()
    async with in_front_of(fake) as driver:
        generation = await driver.submit([GenerationRequest(PROMPT)], "an-id")
        assert driver.counters().waiting == 1
        driver.forget(generation)
        await until(lambda: fake.aborted == fake.left == [fake.requests[0]["rid"]])
        assert driver.counters().waiting == driver.counters().running == 0


@pytest.mark.anyio
async def test_several_choices_run_side_by_side(fake: FakeSGLang) -> None:
    requests = [GenerationRequest(PROMPT, index=index) for index in range(3)]
    async with in_front_of(fake) as driver:
        events = await all_events(await driver.submit(requests, "an-id"))
    ends = [event for event in events if isinstance(event, Finished)]
    assert sorted(end.index for end in ends) == [0, 1, 2]
    assert len({body["rid"] for body in fake.requests}) == 3


@pytest.mark.anyio
async def test_what_the_server_refuses_is_refused_in_its_words(fake: FakeSGLang) -> None:
    async with in_front_of(fake) as driver:
        with pytest.raises(RequestError, match="an unlucky number of tokens"):
            await driver.submit([GenerationRequest(TokenPrompt([5] * 13))], "an-id")
        fake.is_full = True
        with pytest.raises(QueueFull, match="The request queue is full"):
            await driver.submit([GenerationRequest(PROMPT)], "an-id")
        fake.is_full = False
        assert joined(await ask(driver, GenerationRequest(PROMPT))) == ANSWER


@pytest.mark.anyio
async def test_more_than_the_limit_are_refused_here(fake: FakeSGLang) -> None:
    fake.hold()
    async with in_front_of(fake, max_streams=1, max_waiting=1) as driver:
        await driver.submit([GenerationRequest(PROMPT), GenerationRequest(PROMPT)], "an-id")
        with pytest.raises(QueueFull):
            await driver.submit([GenerationRequest(PROMPT)], "an-id")
        assert len(fake.requests) == 2


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("grammar", "sampling"),
    [
        (Grammar("json_schema", '{"type": "object"}'), {"json_schema": '{"type": "object"}'}),
        (Grammar("regex", "[0-9]+"), {"regex": "[0-9]+"}),
    ],
)
async def test_a_grammar_that_sglang_knows_is_passed_on(
    fake: FakeSGLang, grammar: Grammar, sampling: dict[str, str]
) -> None:
    fake.answer = []
    async with in_front_of(fake) as driver:
        await ask(driver, GenerationRequest(PROMPT, SamplingParams(), grammar))
    assert sampling.items() <= fake.requests[0]["sampling_params"].items()


@pytest.mark.anyio
async def test_a_lark_grammar_needs_a_server_with_llguidance(fake: FakeSGLang) -> None:
    request = GenerationRequest(PROMPT, SamplingParams(), Grammar("lark", 'start: "yes" | "no"'))
    async with in_front_of(fake) as driver:
        with pytest.raises(UnsupportedFeature, match="--grammar-backend llguidance"):
            await driver.submit([request], "an-id")
    fake.grammar_backend, fake.answer = "llguidance", list(fake.tokenize("yes"))
    async with in_front_of(fake) as driver:
        events = await ask(driver, request)
    assert fake.requests[0]["sampling_params"]["ebnf"] == 'start: "yes" | "no"'
    assert (joined(events), finished(events).finish_reason) == ("yes", "stop")
    assert finished(events).completion_tokens == len(fake.answer)  # the grammar has ended; no end's token is awaited


@pytest.mark.anyio
async def test_a_penalty_beyond_sglangs_range_is_refused_by_name(fake: FakeSGLang) -> None:
    async with in_front_of(fake) as driver:
        with pytest.raises(UnsupportedFeature, match="repetition_penalty: SGLang takes at most 2, got 3") as refused:
            await driver.submit([GenerationRequest(PROMPT, SamplingParams(repetition_penalty=3.0))], "an-id")
    assert refused.value.param == "repetition_penalty"


@pytest.mark.anyio
async def test_a_connection_that_breaks_ends_its_own_stream_only(fake: FakeSGLang) -> None:
    fake.breaks_after = 2
    async with in_front_of(fake) as driver:
        end = terminal(await ask(driver, GenerationRequest(PROMPT)))
        assert isinstance(end, Failed)
        assert "broke" in end.message
        fake.breaks_after = None
        assert driver.status == "ok"
        assert joined(await ask(driver, GenerationRequest(PROMPT))) == ANSWER


@pytest.mark.anyio
async def test_a_server_that_is_ill_ends_the_streams_and_is_waited_for(fake: FakeSGLang) -> None:
    fake.hold()
    async with in_front_of(fake) as driver:
        generation = await driver.submit([GenerationRequest(PROMPT)], "an-id")
        fake.is_healthy = False
        await until(lambda: driver.status.startswith("engine lost: "))
        assert isinstance(terminal(await all_events(generation)), Failed)
        with pytest.raises(EngineUnavailable, match="engine lost"):
            await driver.submit([GenerationRequest(PROMPT)], "an-id")
        fake.is_healthy = True
        fake.release()
        await until(lambda: driver.status == "ok")
        assert joined(await ask(driver, GenerationRequest(PROMPT))) == ANSWER


class Faltering(FakeSGLang):
    """A server that answers one of three probes with success: it never fails as many in a row as it may."""

    async def _health(self, request: Request) -> Response:
        self.is_healthy = self.probes % remote.MAX_FAILED_PROBES == 0
        return await super()._health(request)


@pytest.mark.anyio
async def test_a_server_whose_probes_fail_now_and_then_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote, "PROBE_INTERVAL", 0.01)
    monkeypatch.setattr(remote, "RETRY_INTERVAL", 0.01)
    fake = Faltering(ids_of, ids_of(ANSWER), EOS)
    async with in_front_of(fake) as driver:
        seen = fake.probes
        await until(lambda: fake.probes >= seen + 4 * remote.MAX_FAILED_PROBES)
        assert driver.status == "ok"
    assert "cannot be reached" not in caplog.text


@pytest.mark.anyio
async def test_a_server_that_is_not_ready_yet_is_waited_for(fake: FakeSGLang) -> None:
    fake.is_healthy = False
    async with serving(fake.app) as port:
        driver = Driver(config_for(port), service_of)
        async with driver.running():
            await until(lambda: fake.probes > 2)
            assert driver.status == "loading"
            fake.is_healthy = True
            await until(lambda: driver.status == "ok")


@pytest.mark.anyio
async def test_a_server_that_ends_is_noticed_while_idle(fake: FakeSGLang) -> None:
    async with AsyncExitStack() as server:
        port = await server.enter_async_context(serving(fake.app))
        async with driving_service(service_of, config_for(port)) as driver:
            await server.aclose()
            await until(lambda: driver.status != "ok")
            assert driver.status.startswith(f"engine lost: no server answers at http://127.0.0.1:{port}")
            assert not driver.vitals().has_failed


@pytest.mark.anyio
async def test_a_server_with_another_tokenizer_is_refused(fake: FakeSGLang) -> None:
    fake.tokenize = lambda prompt: list(prompt.encode())
    async with in_front_of(fake) as driver:
        assert "its tokenizer cuts a text into other tokens" in driver.status


@pytest.mark.anyio
async def test_a_server_with_a_smaller_context_is_refused(fake: FakeSGLang) -> None:
    fake.context = 64
    async with in_front_of(fake) as driver:
        assert "ENGINE_CONTEXT" in driver.status
        assert "takes 64 tokens" in driver.status

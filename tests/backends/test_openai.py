"""The service in front of a server with OpenAI's completions: fakes of other servers, and our own door."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

import raw_asgi
from backends.openai_dialects import SGLANG
from backends.openai_server import OpenAIService, load
from config import Config
from interface.errors import EngineUnavailable, LoadError, PromptTooLong, QueueFull, RequestError, UnsupportedFeature
from interface.events import Failed
from interface.requests import ChatPrompt, GenerationRequest, Grammar, SamplingParams, TextPrompt, TokenPrompt
from serving.driver import Driver
from study.common.engine import HELLO, ScriptedEngine
from study.common.http_servers import serving
from tests.support.asgi_client import until
from tests.support.driving import driving, terminal
from tests.support.fake_completions import FakeCompletions
from tests.support.relaying import PROMPT, ask, driving_service, finished, joined, tokens_of

PIECES = ["The", " answer", " is", " 4", "\u2028."]
CHAT = ChatPrompt([{"role": "user", "content": "Hi"}])
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"x": "é"}}}
WITH_CALLS = ChatPrompt([*CHAT.messages, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool"}])
"""A call, and a result without a content, as one of the older `function` role may be."""


@pytest.fixture
def plain() -> FakeCompletions:
    return FakeCompletions(PIECES)


@pytest.fixture
def llama() -> FakeCompletions:
    return FakeCompletions(PIECES, owned_by="llamacpp")


def config_for(port: int, model: str = "theirs", **settings: Any) -> Config:
    return Config(backend="openai", backend_url=f"http://127.0.0.1:{port}", model=model, **settings)


@asynccontextmanager
async def in_front_of(fake: FakeCompletions, **settings: Any) -> AsyncIterator[Driver]:
    settings = {"context": 512} | settings if fake.context is None else settings
    async with serving(fake.app) as port, driving_service(OpenAIService, config_for(port, **settings)) as driver:
        yield driver


@asynccontextmanager
async def in_front_of_our_door(engine: ScriptedEngine) -> AsyncIterator[Driver]:
    """One of our doors behind another."""
    async with (
        driving(engine) as behind,
        serving(raw_asgi.create_app(behind)) as port,
        driving_service(OpenAIService, config_for(port, behind.models[0])) as driver,
    ):
        yield driver


@pytest.mark.anyio
async def test_an_answer_comes_through_piece_by_piece(plain: FakeCompletions) -> None:
    async with in_front_of(plain) as driver:
        events = await ask(driver, GenerationRequest(PROMPT))
        assert driver.counters().generated_tokens == 9 > len(PIECES)
    assert [token.text for token in tokens_of(events)] == PIECES
    assert [token.token_id for token in tokens_of(events)] == [None] * len(PIECES)
    end = finished(events)
    assert (end.finish_reason, end.prompt_tokens, end.completion_tokens, end.cached_tokens) == ("stop", 7, 9, 4)
    assert plain.requests == [
        {
            "model": "theirs",
            "prompt": PROMPT.text,
            "max_tokens": 128,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


@pytest.mark.anyio
async def test_a_server_that_tells_no_counts_has_made_as_many_tokens_as_have_come(plain: FakeCompletions) -> None:
    async with in_front_of(plain) as driver:
        for plain.usage in (None, {"prompt_tokens": 0, "completion_tokens": 0}):
            end = finished(await ask(driver, GenerationRequest(PROMPT)))
            assert (end.prompt_tokens, end.completion_tokens, end.cached_tokens) == (0, len(PIECES), 0)


@pytest.mark.anyio
async def test_our_own_door_may_be_the_server_and_tells_its_token_ids() -> None:
    async with in_front_of_our_door(ScriptedEngine()) as driver:
        events = await ask(driver, GenerationRequest(TextPrompt("hello there")))
        chat = await ask(driver, GenerationRequest(CHAT))
    assert joined(events) == joined(chat) == "".join(HELLO)
    assert [token.token_id for token in tokens_of(events)] == [0, 1, 2, 3]
    assert finished(events).prompt_tokens == 2


@pytest.mark.anyio
async def test_our_own_door_behind_another_takes_a_conversation_with_calls() -> None:
    async with in_front_of_our_door(ScriptedEngine()) as driver:
        events = await ask(driver, GenerationRequest(ChatPrompt([*WITH_CALLS.messages, *CHAT.messages])))
    assert joined(events) == "".join(HELLO)


@pytest.mark.anyio
async def test_an_abort_passes_through_to_the_engine_behind() -> None:
    engine = ScriptedEngine()
    engine.hold()
    async with in_front_of_our_door(engine) as driver:
        generation = await driver.submit([GenerationRequest(TokenPrompt([1, 2]))], "an-id")
        await until(lambda: len(engine.numbers) == 1)
        driver.forget(generation)
        await until(lambda: engine.aborted == [1])


@pytest.mark.anyio
async def test_parameters_of_openai_are_passed_on(plain: FakeCompletions) -> None:
    params = SamplingParams(temperature=0.5, top_p=0.9, seed=3, stop=["x"], logit_bias={5: 1.0})
    async with in_front_of(plain) as driver:
        await ask(driver, GenerationRequest(PROMPT, params))
    parameters = {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["x"],
        "logit_bias": {"5": 1.0},
    }
    assert plain.requests[0] == plain.requests[0] | parameters


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (GenerationRequest(PROMPT, SamplingParams(top_k=3)), "top_k"),
        (GenerationRequest(PROMPT, SamplingParams(min_tokens=3)), "min_tokens"),
        (GenerationRequest(PROMPT, SamplingParams(), Grammar("regex", "a")), "regex"),
        (GenerationRequest(PROMPT, echo=True), "echo"),
        (GenerationRequest(CHAT), "does not tokenize for others"),
        (GenerationRequest(ChatPrompt(CHAT.messages, tools=[{"type": "function"}])), "tools"),
        (GenerationRequest(ChatPrompt(CHAT.messages, leave_room=9)), "does not tokenize for others"),
    ],
)
async def test_what_the_server_cannot_do_is_refused_by_name(
    plain: FakeCompletions, request_: GenerationRequest, named: str
) -> None:
    async with in_front_of(plain) as driver:
        with pytest.raises(UnsupportedFeature, match=named):
            await driver.submit([request_], "an-id")
    assert plain.requests == []


@pytest.mark.anyio
async def test_llama_cpp_renders_conversations_and_tokenizes(llama: FakeCompletions) -> None:
    async with in_front_of(llama) as driver:
        generation = await driver.submit([GenerationRequest(CHAT)], "an-id")
        assert generation.prompt_tokens == [8]
        tokenized = await driver._engine.tokenize(TextPrompt("né"))  # type: ignore[union-attr]
        assert await driver._engine.detokenize([72, 105]) == "Hi"  # type: ignore[union-attr]
        assert driver._engine.info.vocabulary == 300  # type: ignore[union-attr]
        with pytest.raises(RequestError, match="expected token ids below 300, got 300"):
            await driver._engine.detokenize([72, 300])  # type: ignore[union-attr]
    assert bytes(llama.requests[0]["prompt"]) == b"<user>Hi"
    assert (tokenized.token_ids, tokenized.tokens) == ([110, 0xC3, 0xA9], ["n", "\ufffd", "\ufffd"])


@pytest.mark.anyio
async def test_llama_cpp_gets_calls_with_their_arguments_as_text_and_all_other_messages_with_a_content(
    llama: FakeCompletions,
) -> None:
    async with in_front_of(llama) as driver:
        await ask(driver, GenerationRequest(WITH_CALLS))
    [(question, call, result)] = llama.conversations
    assert (question, result) == (CHAT.messages[0], {"role": "tool", "content": ""})
    assert call["tool_calls"][0]["function"]["arguments"] == '{"x": "é"}'
    assert "content" not in call


@pytest.mark.anyio
async def test_a_conversation_that_may_be_shortened_is_taken_if_it_need_not_be(llama: FakeCompletions) -> None:
    tokens = len("<user>Hi")
    async with in_front_of(llama, context=20) as driver:
        await ask(driver, GenerationRequest(ChatPrompt(CHAT.messages, leave_room=20 - tokens)))
        long = ChatPrompt([{"role": "user", "content": "Hello"}], leave_room=20)  # room for half of the context at most
        with pytest.raises(PromptTooLong):
            await ask(driver, GenerationRequest(long))
    assert len(llama.requests) == 1


@pytest.mark.anyio
async def test_llama_cpps_names_are_used_where_it_has_its_own(llama: FakeCompletions) -> None:
    params = SamplingParams(top_k=3, repetition_penalty=1.5)
    async with in_front_of(llama) as driver:
        await ask(driver, GenerationRequest(PROMPT, params, Grammar("json_schema", '{"type": "object"}')))
    parameters = {"top_k": 3, "repeat_penalty": 1.5, "json_schema": {"type": "object"}}
    assert parameters.items() <= llama.requests[0].items()


def test_sglang_has_words_of_its_own() -> None:
    params = SamplingParams(include_stop_str_in_output=True, min_tokens=2, top_k=0)
    assert SGLANG.body_of(GenerationRequest(PROMPT, params)) == {"no_stop_trim": True, "min_tokens": 2, "top_k": -1}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("fixture", "first_id", "alternatives"), [("llama", 0, ["The"]), ("plain", None, ["The", "other"])]
)
async def test_log_probabilities_come_through_in_either_shape(
    request: pytest.FixtureRequest, fixture: str, first_id: int | None, alternatives: list[str]
) -> None:
    async with in_front_of(request.getfixturevalue(fixture)) as driver:
        first, *_ = tokens_of(await ask(driver, GenerationRequest(PROMPT, SamplingParams(logprobs=2))))
    assert first.logprobs is not None
    assert first.token_id == first.logprobs.chosen.token_id == first_id
    assert (first.logprobs.chosen.token, first.logprobs.chosen.logprob) == ("The", -0.5)
    assert [token.token for token in first.logprobs.top] == alternatives


@pytest.mark.anyio
async def test_a_prompt_that_does_not_fit_is_refused_where_its_length_is_known(llama: FakeCompletions) -> None:
    async with in_front_of(llama) as driver:
        with pytest.raises(PromptTooLong, match="500 tokens and max_tokens is 20"):
            await driver.submit([GenerationRequest(TextPrompt("x" * 500), SamplingParams(max_tokens=20))], "an-id")
        await driver.submit([GenerationRequest(TextPrompt("x" * 500), fill_context=True)], "an-id")
    assert llama.requests[0]["max_tokens"] == 12


@pytest.mark.anyio
async def test_refusals_come_through_in_the_servers_words(plain: FakeCompletions) -> None:
    async with in_front_of(plain) as driver:
        with pytest.raises(RequestError, match="refuses this: not this one"):
            await driver.submit([GenerationRequest(TextPrompt("unusable"))], "an-id")
        with pytest.raises(QueueFull, match="come back later"):
            await driver.submit([GenerationRequest(TextPrompt("crowded"))], "an-id")
        plain.error = {"message": "out of memory", "code": 500}
        end = terminal(await ask(driver, GenerationRequest(PROMPT)))
        assert isinstance(end, Failed)
        assert end.message == "The engine's server has failed: out of memory"


@pytest.mark.anyio
async def test_a_client_that_leaves_closes_the_connection(plain: FakeCompletions) -> None:
    plain.may_go_on.clear()
    async with in_front_of(plain) as driver:
        generation = await driver.submit([GenerationRequest(PROMPT)], "an-id")
        driver.forget(generation)
        await until(lambda: plain.left == 1)


@pytest.mark.anyio
async def test_a_server_that_ends_is_noticed_and_asking_it_is_a_503(llama: FakeCompletions) -> None:
    async with AsyncExitStack() as server:
        port = await server.enter_async_context(serving(llama.app))
        async with driving_service(OpenAIService, config_for(port)) as driver:
            engine = driver._engine
            assert engine is not None
            await server.aclose()
            with pytest.raises(EngineUnavailable, match="no server answers"):
                await engine.tokenize(PROMPT)
            with pytest.raises(EngineUnavailable):
                await engine.submit([GenerationRequest(PROMPT)])
            await until(lambda: driver.status.startswith("engine lost: no server answers"))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model": "mine"}, r"ENGINE_MODEL: expected a name under which .* \(theirs\), got mine"),
        ({"context": 1000}, "ENGINE_CONTEXT: .* takes 512 tokens together, fewer than 1000"),
    ],
)
async def test_settings_that_do_not_fit_the_server_are_refused(
    plain: FakeCompletions, settings: dict[str, Any], reason: str
) -> None:
    async with in_front_of(plain, **settings) as driver:
        assert driver.vitals().has_failed
        with pytest.raises(EngineUnavailable, match=reason):
            await driver.submit([GenerationRequest(PROMPT)], "an-id")


@pytest.mark.anyio
async def test_the_key_is_shown_to_the_server_and_to_nothing_else(plain: FakeCompletions) -> None:
    async with in_front_of(plain, backend_key="sk-7f31"):
        assert plain.keys == {"Bearer sk-7f31"}
    assert "sk-7f31" not in repr(config_for(1, backend_key="sk-7f31"))


def test_without_the_client_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(LoadError, match=r"needs httpx2, .* pip install -r requirements/remote\.txt"):
        load(config_for(1))

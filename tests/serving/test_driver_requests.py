"""The life of a request in the driver, for every way that it may end."""

import asyncio
import threading

import pytest

from interface.engine import Counters
from interface.errors import PromptTooLong, QueueFull
from interface.events import Event, Finished, Logprobs, PromptEcho, Token, TokenLogprob
from study.common.engine import CONTEXT, HELLO, ScriptedEngine
from tests.support.asgi_client import until
from tests.support.driving import all_events, driving, never, stuck, submit, terminal
from tests.support.slow_tokenizer import SlowTokenizer

pytestmark = pytest.mark.anyio

A = TokenLogprob(1, "a", b"a", -1.0)
ANSWERS: dict[str, tuple[list[Event], bool]] = {
    "none": ([], False),
    "short": ([Token("a", 1, 1.0, False)] * 100, False),
    "of many tokens": ([Token("a", 1, 1.0, False)] * 2000, True),
    "with many alternatives": ([Token("a", 1, 1.0, False, logprobs=Logprobs(A, (A,) * 20))] * 100, True),
    "with a long prompt": ([PromptEcho("a" * 2000, (Logprobs(A),) * 2000)], True),
}
"""Events of whole answers, and whether it takes long to make these."""


@pytest.mark.parametrize(("prompt", "max_tokens", "reason"), [("hello", 128, "stop"), ("hello", 2, "length")])
async def test_a_request_that_finishes_has_one_terminal_event(prompt: str, max_tokens: int, reason: str) -> None:
    engine = ScriptedEngine()
    async with driving(engine) as driver:
        events = await all_events(await submit(driver, prompt, max_tokens))
        end = terminal(events)
        assert isinstance(end, Finished)
        assert end.finish_reason == reason
        assert len(events) - 1 == end.completion_tokens == min(max_tokens, len(HELLO))
        await all_events(await submit(driver))
    assert engine.aborted == []


async def test_the_text_of_the_events_is_the_text_of_the_tokens() -> None:
    async with driving(ScriptedEngine()) as driver:
        events = await all_events(await submit(driver, "emoji"))
    assert "".join(event.text for event in events if isinstance(event, Token)) == "😀 你好"


@pytest.mark.parametrize("released", [0, 2], ids=["in prefill", "in decode"])
async def test_a_client_that_leaves_ends_its_request_and_no_other(released: int) -> None:
    engine = ScriptedEngine()
    async with driving(engine) as driver:
        engine.hold()
        left = asyncio.Event()
        leaver = await submit(driver, "count 300", 300)
        neighbour = await submit(driver)
        leaving = asyncio.create_task(all_events(leaver, gone=lambda: _wait(left)))
        staying = asyncio.create_task(all_events(neighbour))
        await until(lambda: engine.counters().running == 2)
        engine.release(released)
        await until(lambda: engine.generated_tokens == 2 * released)
        left.set()
        seen = await leaving
        assert all(isinstance(event, Token) for event in seen)
        await until(lambda: engine.aborted == [engine.numbers[leaver.sequence_ids[0]]])
        engine.release()
        assert isinstance(terminal(await staying), Finished)
        assert engine.generated_tokens == released + len(HELLO)


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def test_an_abort_is_repeated_without_harm() -> None:
    engine = ScriptedEngine()
    async with driving(engine) as driver:
        engine.hold()
        generation = await submit(driver, "count 300", 300)
        for _ in range(3):
            engine.abort(generation.sequence_ids[0])
        engine.abort(10**9)
        end = terminal(await all_events(generation))
        assert isinstance(end, Finished)
        assert end.finish_reason == "abort"
        assert engine.aborted == [engine.numbers[generation.sequence_ids[0]]]


async def test_work_that_raises_ends_its_request() -> None:
    engine = ScriptedEngine()
    async with driving(engine) as driver:
        engine.hold()
        generation = await submit(driver)

        async def fail() -> None:
            raise ZeroDivisionError

        with pytest.raises(ExceptionGroup) as caught:
            await generation.run(fail, never)
        assert caught.group_contains(ZeroDivisionError)
        await until(lambda: engine.aborted == [engine.numbers[generation.sequence_ids[0]]])


async def test_run_returns_what_the_work_returned_or_none_if_it_was_cut_short() -> None:
    async with driving(ScriptedEngine()) as driver:
        generation = await submit(driver)
        result = await generation.run(generation.result, never)
        assert result is not None
        *tokens, end = result
        assert [token.text for token in tokens if isinstance(token, Token)] == HELLO
        assert isinstance(end, Finished)

        async def leave() -> None:
            return None

        generation = await submit(driver, "count 4000", 4000)
        assert await generation.run(stuck, leave) is None


async def test_submit_refuses_what_the_engine_refuses() -> None:
    engine = ScriptedEngine(slots=1, max_waiting=0)
    async with driving(engine) as driver:
        with pytest.raises(PromptTooLong):
            await submit(driver, max_tokens=CONTEXT)
        engine.hold()
        generation = await submit(driver)
        with pytest.raises(QueueFull):
            await submit(driver)
        engine.release()
        assert isinstance(terminal(await all_events(generation)), Finished)
        assert isinstance(terminal(await all_events(await submit(driver))), Finished)


async def test_a_submit_that_is_cancelled_leaves_nothing_running() -> None:
    engine = SlowTokenizer()
    async with driving(engine) as driver:
        submitting = asyncio.create_task(submit(driver))
        await until(engine.is_encoding.is_set)
        submitting.cancel()
        engine.may_encode.set()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        assert isinstance(terminal(await all_events(await submit(driver))), Finished)
        await until(lambda: engine.counters() == Counters(0, 0, len(HELLO)))
    assert len(engine.prompts) == 1


@pytest.mark.parametrize("kind", ANSWERS)
async def test_a_whole_answer_that_takes_long_is_not_made_on_the_loop(kind: str) -> None:
    events, takes_long = ANSWERS[kind]
    async with driving(ScriptedEngine()) as driver:
        made_on = await driver.answer(lambda _: threading.current_thread(), events)
    assert (made_on is not threading.current_thread()) == takes_long

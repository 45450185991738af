"""The driver of an engine that fails: each request gets one error, and new ones are refused."""

import asyncio

import pytest

from interface.errors import EngineUnavailable
from interface.events import Failed, Finished
from study.common.engine import ScriptedEngine
from tests.support.asgi_client import PATIENCE, until
from tests.support.driving import all_events, driving, submit, terminal
from tests.support.slow_tokenizer import SlowTokenizer

pytestmark = pytest.mark.anyio


async def test_a_step_that_raises_gives_everyone_exactly_one_terminal_event() -> None:
    engine = ScriptedEngine(slots=4)
    async with driving(engine) as driver:
        engine.hold()
        running = [await submit(driver, prompt) for prompt in ("count 300", "explode", "count 300", "count 1")]
        waiting = [await submit(driver) for _ in range(3)]
        await until(lambda: engine.counters().waiting == 3)
        engine.release()
        *answers, finished = await asyncio.gather(
            *[all_events(generation) for generation in [*running[:3], *waiting, running[3]]]
        )
        for events in answers:
            end = terminal(events)
            assert end == Failed("RuntimeError: the script says so", "engine_error")
        assert isinstance(terminal(finished), Finished)
        await until(lambda: driver.status != "ok")  # the events may come a moment before
        assert driver.status == "engine failed: RuntimeError: the script says so"
        with pytest.raises(EngineUnavailable, match="the script says so"):
            await submit(driver)


class Rude(ScriptedEngine):
    """Raises an unexpected exception from a step, without an event."""

    is_rude = False

    def step(self) -> bool:
        if self.is_rude:
            raise ZeroDivisionError("not in the script")
        return super().step()


async def test_whatever_a_step_raises_no_request_waits_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    engine = Rude()
    async with driving(engine) as driver:
        engine.hold()
        generations = [await submit(driver) for _ in range(3)]
        await until(lambda: engine.counters().running == 3)
        engine.is_rude = True
        engine.release()
        for events in await asyncio.gather(*[all_events(generation) for generation in generations]):
            end = terminal(events)
            assert isinstance(end, Failed)
            assert end.kind == "engine_error"
            assert "not in the script" in end.message
        assert "not in the script" in driver.status
        with pytest.raises(EngineUnavailable):
            await submit(driver)
    assert any(record.exc_info and "ZeroDivisionError" in str(record.exc_info[0]) for record in caplog.records)


class RudeSlowTokenizer(SlowTokenizer, Rude):
    pass


async def test_a_request_that_is_tokenized_while_the_engine_dies_is_refused() -> None:
    engine = RudeSlowTokenizer()
    async with driving(engine) as driver:
        engine.may_encode.set()
        engine.hold()
        victim = await submit(driver)
        engine.may_encode.clear()
        engine.is_encoding.clear()
        late = asyncio.create_task(submit(driver))
        await until(engine.is_encoding.is_set)
        engine.is_rude = True
        engine.release()
        assert isinstance(terminal(await all_events(victim)), Failed)
        engine.may_encode.set()
        with pytest.raises(EngineUnavailable, match="not in the script"):
            async with asyncio.timeout(PATIENCE):
                await late

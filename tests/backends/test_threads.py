"""Threads that may be abandoned while they block."""

import asyncio
import threading
from contextvars import ContextVar

import anyio
import pytest

from backends.threads import DaemonThread, in_daemon_thread
from tests.support.asgi_client import PATIENCE, until
from tests.support.serving import wait_until

pytestmark = pytest.mark.anyio


class Held:
    """A function that returns when it is told to."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.may_return = threading.Event()

    def __call__(self) -> str:
        self.began.set()
        assert self.may_return.wait(PATIENCE)
        return "done"


async def test_the_result_or_the_error_comes_back() -> None:
    assert await in_daemon_thread(lambda: threading.current_thread().daemon) is True
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread(lambda: 1 / 0)


async def test_an_error_that_no_coroutine_may_raise_is_not_waited_for_for_ever() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(in_daemon_thread(lambda: next(iter(()))), PATIENCE)


async def test_an_error_that_is_no_exception_comes_back_as_one() -> None:
    class Panic(BaseException):
        pass

    def panic() -> None:
        raise Panic("index out of bounds")

    with pytest.raises(RuntimeError, match=r"^Panic: index out of bounds$"):
        await in_daemon_thread(panic)


async def test_the_thread_sees_its_tasks_context() -> None:
    variable = ContextVar("variable", default="none")
    variable.set("its own")
    assert await in_daemon_thread(variable.get) == "its own"


async def test_a_task_that_is_cancelled_does_not_wait_for_its_thread_which_still_counts() -> None:
    held, limiter = Held(), anyio.CapacityLimiter(1)
    task = asyncio.create_task(in_daemon_thread(held, limiter))
    await until(held.began.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, PATIENCE)
    following = asyncio.create_task(in_daemon_thread(Held, limiter))
    await asyncio.sleep(0)
    assert limiter.borrowed_tokens == 1
    assert not following.done()
    held.may_return.set()
    assert isinstance(await asyncio.wait_for(following, PATIENCE), Held)
    assert limiter.borrowed_tokens == 0


async def test_a_task_that_is_cancelled_before_its_turn_leaves_nothing_behind() -> None:
    held, limiter = Held(), anyio.CapacityLimiter(1)
    running = asyncio.create_task(in_daemon_thread(held, limiter))
    await until(held.began.is_set)
    waiting = asyncio.create_task(in_daemon_thread(lambda: pytest.fail("it began"), limiter))
    await until(lambda: limiter.statistics().tasks_waiting == 1)
    waiting.cancel()
    held.may_return.set()
    assert await running == "done"
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert limiter.borrowed_tokens == 0


def test_a_thread_that_outlives_its_loop_ends_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    held = Held()
    before = len(DaemonThread.idle)

    async def leave_it() -> None:
        with anyio.move_on_after(0.01):
            await in_daemon_thread(held)
        await until(held.began.is_set)

    asyncio.run(leave_it())
    held.may_return.set()
    wait_until(lambda: len(DaemonThread.idle) >= max(before, 1))
    assert capfd.readouterr().err == ""

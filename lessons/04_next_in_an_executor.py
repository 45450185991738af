"""run_in_executor(None, next, tokens) never ends; next(tokens, END) does.

A generator that blocks must not run on the event loop, so its `next` runs in a thread. A common way is to await
`run_in_executor(None, next, tokens)` inside `try … except StopIteration`. That loop never ends. `next` says "no more"
by raising StopIteration, which in a coroutine means "returned", so asyncio refuses to put it into a Future. Python 3.11
only logs this, and the await waits for ever. Since 3.12.6 asyncio raises a RuntimeError, as anyio does, and `except
StopIteration` does not catch it.

The fix is to let `next` return a value for "no more". The service has no `next`: a step of its engine returns whether
there is more to do.

In the service: backends/stepped.py: SteppedService._work.
"""

import _start

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from anyio import to_thread

END = object()


def tokens() -> Iterator[str]:
    yield from ("one", "two", "three")


async def run_in_executor() -> AsyncIterator[Any]:
    source = tokens()
    while True:
        yield await asyncio.get_running_loop().run_in_executor(None, next, source)


async def anyio_to_thread() -> AsyncIterator[Any]:
    source = tokens()
    while True:
        yield await to_thread.run_sync(next, source)


async def with_an_end() -> AsyncIterator[Any]:
    source = tokens()
    while (token := await to_thread.run_sync(next, source, END)) is not END:
        yield token


async def next_or_hang(stream: AsyncIterator[Any], complaint: asyncio.Event) -> Any:
    """The next token. Raises TimeoutError: asyncio has complained, and half a second later there is still none."""
    token = asyncio.ensure_future(anext(stream))
    complained = asyncio.ensure_future(complaint.wait())
    await asyncio.wait((token, complained), return_when=asyncio.FIRST_COMPLETED)
    complained.cancel()
    return await asyncio.wait_for(token, None if token.done() else 0.5)


async def show(name: str, stream: AsyncIterator[Any]) -> None:
    received, end, here = 0, "no StopIteration", ""
    logged: list[Any] = []
    complaint = asyncio.Event()

    def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        logged.append(context["exception"])
        complaint.set()

    asyncio.get_running_loop().set_exception_handler(note)
    try:
        while True:
            await next_or_hang(stream, complaint)
            received += 1
    except StopAsyncIteration:
        end = "the end"
    except StopIteration:
        end = "StopIteration"
    except TimeoutError:
        here = f"it waits for ever; asyncio has logged: {logged[-1]}"
    except RuntimeError as error:
        here = f"RuntimeError: {error}"
    print(f"{name}: {received} tokens, then {end}")
    if here:
        print(f"    here: {here}")


async def main() -> None:
    await show("run_in_executor(None, next, tokens)", run_in_executor())
    await show("to_thread.run_sync(next, tokens)", anyio_to_thread())
    await show("to_thread.run_sync(next, tokens, END)", with_an_end())


asyncio.run(main())

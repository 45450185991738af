"""Kills each process of `--workers 2`, idle and with 32 streams: what clients saw, and what was left over.

    python -m study.chaos

The engine is scripted, with steps of 5 ms. Times count from the signal (SIGKILL).
"""

import asyncio
import json
import os
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from study.common.arguments import argument_parser
from study.common.client import DONE, Exchange, LoadFailed, Target, asking, whole
from study.common.launcher import Process, command_line_of, running
from study.common.scripted_workers import NAME, all_ready, ready

STREAMS = 32
WORKERS = 2
VICTIMS = {"a worker": "spawn_main", "the engine": "engine --until", "the launcher": ""}
PROMPT, TOKENS = "drip 4000", 4000
SETTLED = 12.0
"""Seconds after which left-over processes, sockets and shared memory are counted."""
ASK_EVERY = 0.01
SEES = 3.0
"""Seconds that a stream is watched after the kill. One that still gets tokens then has survived."""


@dataclass
class Seen:
    """The effects of one kill."""

    streams: Counter[str]
    refusals: Counter[str]
    answered_after: float | None
    """Seconds until requests were answered again; None if they were not."""
    whole_after: float | None
    """Seconds until as many processes as before were ready."""
    left_over: list[str]


def main() -> None:
    argument_parser(__doc__).parse_args()
    print("| killed | with streams | what they saw | other requests | answers after | whole after | left over |")
    print("|---|---|---|---|---|---|---|")
    for victim, part in VICTIMS.items():
        for streams in (0, STREAMS):
            print(row(victim, streams, kill(part, streams)), flush=True)


def row(victim: str, streams: int, seen: Seen) -> str:
    cells = [
        victim,
        str(streams),
        in_words(seen.streams) or "–",
        in_words(seen.refusals) or "all answered",
        "never" if seen.answered_after is None else f"{seen.answered_after:.2f} s",
        "never" if seen.whole_after is None else f"{seen.whole_after:.1f} s",
        ", ".join(seen.left_over) or "nothing",
    ]
    return f"| {' | '.join(cells)} |"


def in_words(counts: Counter[str]) -> str:
    return "; ".join(f"{count} {what}" for what, count in counts.most_common())


def kill(part: str, streams: int) -> Seen:
    with tempfile.TemporaryDirectory() as folder, serving(folder) as process:
        family = [process.popen.pid, *process.children()]
        shared_memory = set().union(*map(shared_memory_of, family))
        victim = process.children(part)[0] if part else process.popen.pid
        seen = asyncio.run(watch(process, victim, streams))
        alive = [command_line_of(pid) for pid in family if pid != victim and command_line_of(pid)]
        is_gone = process.popen.poll() is not None
        seen.left_over += [f"process {line[:40]}" for line in alive if is_gone]
        seen.left_over += [f"file {path.name}" for path in Path(folder).iterdir() if is_gone]
        seen.left_over += [f"shared memory {path}" for path in shared_memory if is_gone and os.path.exists(path)]
        return seen


def shared_memory_of(pid: int) -> set[str]:
    """The paths of the shared memory that a process holds."""
    with suppress(OSError):
        return set(re.findall(r"/dev/shm/\S+", Path(f"/proc/{pid}/maps").read_text()))
    return set()


@contextmanager
def serving(folder: str) -> Iterator[Process]:
    # One more, for the short requests: all of the streams may be on a worker that is not killed.
    environ = {"TMPDIR": folder, "ENGINE_MAX_STREAMS": str(STREAMS + 1), "ENGINE_DRAIN": "1"}
    with running(["-m", NAME, "raw_asgi", "--workers", str(WORKERS)], environ) as process:
        process.wait_for(lambda: all_ready(process, WORKERS))
        yield process


async def watch(process: Process, victim: int, streams: int) -> Seen:
    """Kill the victim while so many streams are open, and go on sending requests."""
    target = process.target
    began = [asyncio.Event() for _ in range(streams)]
    watching = [asyncio.create_task(stream(target, event)) for event in began]
    await asyncio.gather(*(event.wait() for event in began))
    before = states(process)
    os.kill(victim, signal.SIGKILL)
    killed_at = time.perf_counter()
    refusals: Counter[str] = Counter()
    answered_after = whole_after = None
    while time.perf_counter() - killed_at < SETTLED and (answered_after is None or whole_after is None):
        outcome = await request(target)
        now = time.perf_counter() - killed_at
        if outcome != "answered":
            refusals[outcome] += 1
            answered_after = None
        elif answered_after is None:
            answered_after = now
        if whole_after is None and states(process) > before:
            whole_after = now
        await asyncio.sleep(ASK_EVERY)
    await asyncio.sleep(max(0.0, SEES - (time.perf_counter() - killed_at)))
    for task in watching:
        task.cancel()
    ends = Counter(await asyncio.gather(*watching))
    await asyncio.sleep(max(0.0, SETTLED - (time.perf_counter() - killed_at)))
    return Seen(ends, refusals, answered_after, whole_after, [])


def states(process: Process) -> int:
    """Grows by as many as there are workers when an engine is back, and by one when a worker is."""
    log = process.log
    return ready(log) + log.count("The engine is back") // WORKERS


async def stream(target: Target, began: asyncio.Event) -> str:
    """Read a stream; return how it ended, or that it went on until this was cancelled."""
    async with asking(target, target.body(PROMPT, TOKENS)) as exchange:
        try:
            await exchange.read_tokens(1)
            began.set()
            await exchange.read_all()
        except asyncio.CancelledError:
            return "went on"
        except OSError:
            return "were cut off without a word"
        return ending(exchange)


def ending(exchange: Exchange) -> str:
    received = b"".join(data for _, data in exchange.received)
    if DONE not in received:
        return "were cut off without a word"
    last = exchange.events()[-1][1]
    return f"ended with an error event ({last['error']['type']})" if "error" in last else "came to their end"


async def request(target: Target) -> str:
    """Ask for a short answer on a connection of its own."""
    try:
        async with asyncio.timeout(5):
            exchange = await whole(target, target.body("hello", 4, stream=False) | {"ignore_eos": False})
            with suppress(json.JSONDecodeError):
                return "answered" if "text" in exchange.answer() else "answered otherwise"
            return "cut off"
    except LoadFailed as error:
        return f"refused with {str(error).partition('got ')[2][:3]}"
    except TimeoutError:  # an OSError, too
        return "without an answer"
    except OSError:
        return "without a connection"


if __name__ == "__main__":
    main()

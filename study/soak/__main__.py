"""Sends requests above a server's capacity, valid and invalid ones, and checks that it stays sound: `make soak`.

    python -m study.soak [--door raw_asgi] [--seconds 600] [--clients 48]
    python -m study.soak --model model.gguf --peer-command \\
        '/path/to/llama-server -m {model} --port {port} --parallel {streams} --ctx-size 16384 --metrics'

With a peer, both servers get the same model and the same mix of requests that both understand, and a table compares
them.
"""

import argparse
import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from study.common.arguments import argument_parser
from study.common.client import ask
from study.common.launcher import ROOT, Process, free_port, running
from study.soak.clients import ALL_WAYS, SHARED_WAYS, Tally, Way, behave
from study.soak.findings import Findings, report, table
from study.soak.server import STATE_PATH

STREAMS = 4
SETTINGS = {
    "ENGINE_MAX_STREAMS": str(STREAMS),
    "ENGINE_MAX_WAITING": "8",
    "ENGINE_BODY_LIMIT": "10",
    "ENGINE_STALL": "5",
}
"""Low limits, so that the clients exceed them."""
PEER = "llama-server -m {model} --port {port} --parallel {streams} --ctx-size 16384 --metrics"
SETTLE = 10.0
"""Seconds after the last client within which the server must have freed everything."""
MADE = re.compile(r"^(?:engine_generated_tokens_total|llamacpp:tokens_predicted_total) (\S+)$", re.MULTILINE)
RUNNING = re.compile(r"^(?:engine_running|llamacpp:requests_processing) (\S+)$", re.MULTILINE)


async def metric(process: Process, pattern: re.Pattern[str]) -> int | None:
    _, body = await ask(process.target.at("/metrics"))
    found = pattern.search(body.decode())
    return None if found is None else int(float(found[1]))


async def state_of(process: Process, what: str) -> int:
    """How many tasks the server's event loop has, or how many steps have raised; 0 if the server does not report it."""
    _, body = await ask(process.target.at(STATE_PATH))
    found = re.search(rf'"{what}": (\d+)', body.decode())
    return 0 if found is None else int(found[1])


async def present(process: Process) -> dict[str, int]:
    """Count what must not have grown after the soak: sequences, files, tasks."""
    return {
        "sequences in slots": await metric(process, RUNNING) or 0,
        "files": len(os.listdir(Path("/proc", str(process.popen.pid), "fd"))),
        "tasks": await state_of(process, "tasks"),
    }


async def settled(process: Process, before: dict[str, int]) -> dict[str, int]:
    """Wait until the counts are as before, for at most `SETTLE` seconds; return by how much each has grown."""
    give_up_at = time.monotonic() + SETTLE
    while True:
        left = {what: count - before[what] for what, count in (await present(process)).items()}
        if max(left.values()) <= 0 or time.monotonic() > give_up_at:
            return left
        await asyncio.sleep(0.2)


async def load(process: Process, seconds: float, clients: int, ways: dict[str, Way]) -> tuple[Tally, list[int]]:
    """Send requests for so many seconds; return their outcomes, and the server's memory in the course of it."""
    tally = Tally()
    memory: list[int] = []
    until = time.monotonic() + seconds

    async def go_on() -> None:
        while time.monotonic() < until:
            await behave(process.port, tally, ways)

    async def look() -> None:
        while time.monotonic() < until:
            memory.append(process.memory)
            await asyncio.sleep(0.1)

    await asyncio.gather(look(), *[go_on() for _ in range(clients)])
    return tally, memory


@contextmanager
def probing(port: int) -> Iterator[dict[str, list[float]]]:
    """Request /health from another process until the block ends; the times are then in the dict."""
    took: dict[str, list[float]] = {}
    command = [sys.executable, "-m", "study.soak.prober", str(port)]
    prober = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield took
        took |= json.loads(prober.communicate("", timeout=60)[0])
    finally:
        prober.kill()


def soak(name: str, process: Process, seconds: float, clients: int, ways: dict[str, Way]) -> Findings:
    before = asyncio.run(present(process))
    made_before = asyncio.run(metric(process, MADE)) or 0
    with probing(process.port) as took:
        tally, memory = asyncio.run(load(process, seconds, clients, ways))
    left = asyncio.run(settled(process, before))
    made = asyncio.run(metric(process, MADE))
    raised = asyncio.run(state_of(process, "raised"))
    made = None if made is None else made - made_before
    return Findings(name, seconds, tally, memory, took["server"], took["idle"], made, left, raised)


@contextmanager
def ours(options: argparse.Namespace, settings: dict[str, str]) -> Iterator[Process]:
    port = free_port()
    arguments = ["-m", "uvicorn", "--factory", "study.soak.server:flawed_app", "--port", str(port), "--no-access-log"]
    flaw = {"DOOR": options.door, "RAISE_EVERY": str(options.raise_every)}
    with running(arguments, SETTINGS | settings | flaw) as process:
        process.given_port = port
        process.wait_until_ready()
        yield process


@contextmanager
def peer(command: str, model: Path) -> Iterator[Process]:
    port = free_port()
    values = {"model": model, "port": port, "streams": STREAMS}
    program, *arguments = [part.format(**values) for part in shlex.split(command)]
    with running(arguments, program=program) as process:
        process.given_port = port
        process.wait_until_ready()
        yield process


def compare(options: argparse.Namespace) -> str:
    """Soak both servers with the same model and the requests that both understand."""
    found = []
    with ours(options, {"ENGINE_MODEL": str(options.model), "ENGINE_COMPILE": "1"}) as process:
        found.append(soak(f"{options.door}.py", process, options.seconds, options.clients, SHARED_WAYS))
    with peer(options.peer_command, options.model) as process:
        name = Path(shlex.split(options.peer_command)[0]).name
        found.append(soak(name, process, options.seconds, options.clients, SHARED_WAYS))
    return table(found)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--door", default="app")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--raise-every", type=int, default=400, metavar="STEPS", help="one of so many steps raises")
    parser.add_argument("--health-limit", type=float, default=0.05, help="seconds, of the 99th percentile")
    parser.add_argument("--model", type=lambda text: Path(text).resolve(), help="a GGUF file that the peer has too")
    parser.add_argument("--peer-command", help=f"another server: {PEER}")
    options = parser.parse_args(arguments)
    if options.peer_command is not None:
        if options.model is None:
            parser.error("expected --model, a file for both servers, with --peer-command")
        print(compare(options))
        return
    settings = {} if options.model is None else {"ENGINE_MODEL": str(options.model)}
    with ours(options, settings) as process:
        found = soak(f"{options.door}.py", process, options.seconds, options.clients, ALL_WAYS)
    print(report(found, options.health_limit))
    raise SystemExit(not all(found.held(options.health_limit).values()))


if __name__ == "__main__":
    main()

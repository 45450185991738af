"""How long a start takes: from the process to an engine that takes requests, and the processor time until then.

    python -m study.benchmarks.bench_start model.gguf
    python -m study.benchmarks.bench_start model.gguf --peer-command 'llama-server -m {model} --port {port}'

Each way of starting has its turn in each round, and the least of the rounds counts: other programs on the machine can
only make a start longer. "first" compiles, "next" finds the compiled libraries.
"""

import argparse
import math
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from study.common.arguments import argument_parser
from study.common.launcher import Process, free_port, launched, running, uvicorn

SETTINGS = {"ENGINE_CONTEXT": "512", "ENGINE_DEVICE": "cpu"}


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds until the server was ready, and processor time of the server and its compilers until then."""

    wall: float
    processor: float


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("model", help="folder, GGUF file or hub name")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each kind (default: %(default)s)")
    parser.add_argument("--uncompiled", action="store_true", help="start without ENGINE_COMPILE=1 too")
    parser.add_argument("--peer-command", metavar="COMMAND", help="starts another server; {model} {port}")
    options = parser.parse_args()
    starts: dict[str, list[Start]] = {}
    for _ in range(options.rounds):
        for name, start in _round(options):
            starts.setdefault(name, []).append(start)
            print(f"{name}: {start.wall:.2f} s, {start.processor:.2f} s of processor time", flush=True)
    print(f"{'least of ' + str(options.rounds):<14}{'ready after':>13}{'processor time':>16}")
    for name, its in starts.items():
        wall, processor = min(start.wall for start in its), min(start.processor for start in its)
        print(f"{name:<14}{wall:>11.2f} s{processor:>14.2f} s")


def _round(options: argparse.Namespace) -> Iterator[tuple[str, Start]]:
    with tempfile.TemporaryDirectory() as kept:
        compiled = {"ENGINE_COMPILE": "1", "ENGINE_COMPILE_CACHE": kept}
        ways = {"first": compiled, "next": compiled} | ({"uncompiled": {}} if options.uncompiled else {})
        for name, settings in ways.items():
            with launched(uvicorn("raw_asgi:app"), SETTINGS | settings | {"ENGINE_MODEL": options.model}) as process:
                yield name, _until_ready(process)
    if options.peer_command:
        port = free_port()
        program, *arguments = shlex.split(options.peer_command.format(model=shlex.quote(options.model), port=port))
        with running(arguments, program=program) as process:
            process.given_port = port
            yield "peer", _until_ready(process)


def _until_ready(process: Process) -> Start:
    wall = process.wait_until_ready()
    return Start(wall, process.cpu_seconds() or math.nan)


if __name__ == "__main__":
    main()

"""The benchmarks of transport, chat, workers and grammars, as small as they get: each runs to its end."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from interface.events import Finished
from study.benchmarks import bench_chat, bench_grammar, bench_transport, bench_workers
from study.benchmarks.transport_servers import HopPerStepService
from study.common.engine import ScriptedEngine
from study.common.launcher import Command, Process, launched
from tests.support.driving import all_events, driving, submit, terminal

pytestmark = [pytest.mark.timeout(200), pytest.mark.anyio]  # real servers
TOKENS = 20


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[Command], Process]]:
    """Starts each server once for all benchmarks; a scripted one in place of those with a model."""
    started: dict[str, Process] = {}

    def server(command: Command) -> Process:
        name = command(0)[2]
        if name in ("hop_per_step", "staying_worker"):
            name = "raw_asgi"
        if name not in started:
            started[name] = stack.enter_context(launched(bench_transport.server_named(name)))
        return started[name]

    with ExitStack() as stack:
        yield server


@pytest.fixture(autouse=True)
def little_is_measured(servers: Callable[[Command], Process], monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def from_others(command: Command) -> Iterator[Process]:
        yield servers(command)

    for bench in (bench_transport, bench_chat):
        monkeypatch.setattr(bench, "launched", from_others)
        monkeypatch.setattr(bench, "ROUNDS", 1)
        monkeypatch.setattr(bench, "EVENTS", TOKENS)
    for bench in (bench_transport, bench_chat, bench_grammar):
        monkeypatch.setattr(bench, "STREAMS", 2)
    monkeypatch.setattr(sys, "argv", ["bench"])


def first_columns(printed: str, columns: int) -> list[list[str]]:
    return [line.split()[:columns] for line in printed.splitlines()]


def test_each_transport_and_each_driver_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_transport, "STORY", ("pace=0", TOKENS))
    bench_transport.main()
    lines = first_columns(capsys.readouterr().out, 2)
    assert [line for line in lines if line[:1] in (["1"], ["2"])] == [
        [clients, name] for clients in ("1", "2") for name in ("article", "app", "raw_asgi")
    ]
    assert [line[0] for line in lines[-2:]] == ["hop_per_step", "staying_worker"]


async def test_a_driver_with_a_hop_per_step_takes_every_step() -> None:
    async with driving(ScriptedEngine(), service=HopPerStepService) as driver:
        assert isinstance(terminal(await all_events(await submit(driver, "count 5"))), Finished)


def test_each_api_is_measured_at_both_doors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, api in bench_chat.APIS.items():
        limits = dict.fromkeys(api.body.keys() & {"max_tokens", "max_output_tokens"}, TOKENS)
        monkeypatch.setitem(bench_chat.APIS, name, replace(api, body={**api.body, **limits}))
    bench_chat.main()
    lines = first_columns(capsys.readouterr().out, 3)
    assert [line for line in lines if line[:1] in (["app"], ["raw_asgi"])] == [
        [door, clients, api] for door in ("app", "raw_asgi") for clients in ("1", "2") for api in bench_chat.APIS
    ]


def test_one_process_and_several_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_workers, "WORKERS", (0, 1))
    monkeypatch.setattr(bench_workers, "STREAMS", (2,))
    monkeypatch.setattr(bench_workers, "PACES", {"fast": ("size=5", TOKENS)})
    monkeypatch.setattr(sys, "argv", ["bench", "--rounds", "1"])
    bench_workers.main()
    lines = capsys.readouterr().out.splitlines()
    for line, layout in zip(lines[2:4], ("one process", "1"), strict=True):
        assert line.startswith(f"| fast | 2 | {layout} |")
    assert lines[-1].startswith("1 workers: launcher ")


def test_steps_with_a_grammar_are_compared_with_steps_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_grammar, "STEPS", 3)
    bench_grammar.main(["--rounds", "1", "--no-compile"])
    printed = capsys.readouterr().out
    assert "2 streams without a grammar" in printed
    assert " 1 of them with one: " in printed

"""`bench_start`: the commands that it would start, and what it prints; no server is started here."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from study.benchmarks import bench_start


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, str]]:
    """The settings of each server that was started; it is ready after as many seconds as were started before it."""
    started: list[Mapping[str, str]] = []

    @contextmanager
    def launched(command: object, settings: Mapping[str, str]) -> Iterator[SimpleNamespace]:
        started.append(settings)
        seconds = float(len(started))
        yield SimpleNamespace(wait_until_ready=lambda: seconds, cpu_seconds=lambda: 1.5)

    monkeypatch.setattr(bench_start, "launched", launched)
    return started


def test_the_next_start_finds_what_the_first_has_compiled(
    settings: list[Mapping[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_start", "model.gguf", "--rounds", "2", "--uncompiled"])
    bench_start.main()
    kept = [environment.get("ENGINE_COMPILE_CACHE") for environment in settings]
    assert kept == [kept[0], kept[0], None, kept[3], kept[3], None]
    assert kept[0] != kept[3]
    assert all(environment["ENGINE_MODEL"] == "model.gguf" for environment in settings)
    table = [line.split() for line in capsys.readouterr().out.splitlines()[-3:]]
    assert [(line[0], line[1], line[3]) for line in table] == [
        ("first", "1.00", "1.50"),
        ("next", "2.00", "1.50"),
        ("uncompiled", "3.00", "1.50"),
    ]

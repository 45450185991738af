"""The doors as programs: how they start, their messages for mistakes, and how they end at Ctrl-C.

These run in processes of their own. Where a test is about the end of a server, its engine is the scripted one.
"""

import argparse
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import pytest

from config import Config
from serving import command_line
from serving.driver import Driver
from serving.flags import SECTIONS, add_settings
from study.common.launcher import Process
from tests.support.asgi_client import events_of
from tests.support.http_client import Connection
from tests.support.idle_time import IdleTime, seconds_until_end
from tests.support.serving import DOORS, in_a_process, wait_until

SERVERS = {
    "uvicorn": lambda door: ["-m", "uvicorn", f"{door}:app", "--port", "0"],
    "python": lambda door: [f"{door}.py", "--port", "0"],
}
both_doors = pytest.mark.parametrize("name", DOORS)


@contextmanager
def serving(name: str, *options: str, **environ: str) -> Iterator[Process]:
    """`uvicorn` with a door and the scripted engine, in a process of its own."""
    arguments = ["-m", "uvicorn", "--factory", "tests.support.serving:scripted_app", "--port", "0", *options]
    with in_a_process(arguments, {"DOOR": name} | environ) as process:
        yield process


PROMISED = 5.0
"""Seconds after which a server that was told to end has ended."""
MARGIN = 3
"""How many times longer than promised it may take."""


def expect_clean_end(process: Process) -> None:
    took = seconds_until_end(process)
    assert "Traceback" not in process.log, process.log
    assert "ERROR" not in process.log, process.log
    assert "Finished server process" in process.log
    assert took < MARGIN * PROMISED, f"{took:.1f} s\n{process.log}"


def health_of(process: Process) -> Any:
    with Connection(process.port) as connection:
        return connection.request("GET", "/health").json()


# --- Mistakes at the start --------------------------------------------------------------------------------------------


@both_doors
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"ENGINE_MAX_STREAM": "4"}, "ENGINE_MAX_STREAM: no such setting; did you mean ENGINE_MAX_STREAMS?"),
        ({"ENGINE_MAX_STREAMS": "many"}, "ENGINE_MAX_STREAMS: expected a whole number from 1 to 1000000000"),
    ],
    ids=["unknown variable", "bad value"],
)
def test_a_mistake_in_the_environment_ends_the_program_with_one_line(
    name: str, server: str, environ: dict[str, str], says: str
) -> None:
    with in_a_process(SERVERS[server](name), environ) as process:
        assert process.wait() != 0
        lines = [line for line in process.log.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert says in lines[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--max-streams", "0"], "--max-streams: expected a whole number from 1 to 1000000000, got '0'"),
        (["--device", "gpu"], "--device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["--max-stream", "4"], "unrecognized arguments: --max-stream 4; did you mean --max-streams?"),
        (["--max-stream=4"], "did you mean --max-streams?"),
        (["--port", "http"], "--port"),
        (["--port", "99999"], "--port: expected a port from 0 (any free one) to 65535, got '99999'"),
        (["--host", ""], "--host: expected an address or a host name, got ''"),  # it would be all addresses
        (["--host", "127.0.0..1"], "--host: expected an address or a host name, got '127.0.0..1'"),
        (["serve"], "unrecognized arguments: serve; --help lists the flags"),
    ],
)
def test_a_mistake_on_the_command_line_ends_the_program_with_its_reason(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line.main(_never, "a door", arguments)
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


def _never(driver: Driver) -> None:
    raise AssertionError("nothing is to be served")


class _Created(Exception):
    """Ends the program where it would begin to serve."""

    def __init__(self, config: Config) -> None:
        self.config = config


def config_for(arguments: list[str]) -> Config:
    """The configuration that the program would serve with."""

    def create_app(driver: Driver) -> None:
        raise _Created(driver.config)

    with pytest.raises(_Created) as caught:
        command_line.main(create_app, "a door", arguments)
    return caught.value.config


def test_a_flag_wins_over_the_environment_and_the_environment_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_MAX_STREAMS", "3")
    monkeypatch.setenv("ENGINE_MAX_WAITING", "5")
    config = config_for(["--max-streams", "7"])
    assert (config.max_streams, config.max_waiting, config.context) == (7, 5, None)


def test_every_setting_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.main(_never, "a door", ["--help"])
    help_text = capsys.readouterr().out
    for name in Config.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in help_text
        assert f"ENGINE_{name.upper()}" in help_text
    assert "(ENGINE_MAX_STREAMS; default: 16)" in help_text
    for flag in ("--host", "--port", "--demo"):
        assert flag in help_text


def test_help_shows_each_setting_once_in_the_section_of_its_group() -> None:
    parser = argparse.ArgumentParser()
    add_settings(parser)
    sections = parser.format_help().split("\n\n")
    titles = {setting.name: title for title, group in reversed(SECTIONS.items()) for setting in fields(group)}
    assert titles.keys() == {setting.name for setting in fields(Config)}
    assert titles["compile"] == "model"
    assert titles["api_keys"] == "access"
    for name, title in titles.items():
        (section,) = (one for one in sections if re.search(rf"\bENGINE_{name.upper()}\b", one))
        assert section.startswith(f"{title}:")


# --- The end ----------------------------------------------------------------------------------------------------------


@both_doors
def test_ctrl_c_ends_an_idle_server_at_once(name: str) -> None:
    with serving(name) as process:
        with Connection(process.port) as connection:
            wait_until(lambda: connection.request("GET", "/health").status == 200)
        process.interrupt()
        expect_clean_end(process)


@both_doors
def test_ctrl_c_lets_a_short_stream_finish(name: str) -> None:
    """ "drip" makes a token every few milliseconds, so the stream is open when the signal comes."""
    with serving(name, ENGINE_DRAIN="15") as process, Connection(process.port) as connection:
        wait_until(lambda: connection.request("GET", "/health").status == 200)
        connection.send_generate("drip 100", max_tokens=100)
        connection.read_head()
        connection.read_event()
        process.interrupt()
        *tokens, closing = events_of(b"".join(connection.chunks()))
        assert len(tokens) == 99
        assert closing["finish_reason"] == "stop"
        expect_clean_end(process)


def test_a_terminal_that_is_closed_lets_a_short_stream_finish() -> None:
    with serving("app", ENGINE_DRAIN="15") as process, Connection(process.port) as connection:
        wait_until(lambda: connection.request("GET", "/health").status == 200)
        connection.send_generate("drip 100", max_tokens=100)
        connection.read_head()
        connection.read_event()
        process.popen.send_signal(signal.SIGHUP)
        *_, closing = events_of(b"".join(connection.chunks()))
        assert closing["finish_reason"] == "stop"
        process.wait()


def test_under_nohup_a_terminal_that_is_closed_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with serving("app") as process, Connection(process.port) as connection:
            wait_until(lambda: connection.request("GET", "/health").status == 200)
            process.popen.send_signal(signal.SIGHUP)
            for _ in range(5):
                connection.send_generate("drip 10", stream=False)
                assert connection.read_response().status == 200
    finally:
        signal.signal(signal.SIGHUP, before)


@both_doors
def test_ctrl_c_tells_open_requests_and_ends_soon(name: str) -> None:
    with (
        serving(name) as process,
        Connection(process.port) as streaming,
        Connection(process.port) as waiting,
        Connection(process.port) as idle,
    ):
        wait_until(lambda: idle.request("GET", "/health").status == 200)
        streaming.send_generate("drip 4000", max_tokens=4000)
        streaming.read_head()
        streaming.read_event()
        waiting.send_generate("drip 4000", stream=False, max_tokens=4000)
        wait_until(lambda: idle.request("GET", "/health").json()["running"] == 2)
        process.interrupt()
        stopwatch = IdleTime(process.popen.pid)
        *_, last = events_of(b"".join(streaming.chunks()))
        assert last == {"error": {"message": "The server is shutting down", "type": "shutdown"}}
        assert waiting.read_response().status == 503
        assert stopwatch.seconds < MARGIN * PROMISED
        expect_clean_end(process)


@both_doors
def test_ctrl_c_ends_a_server_whose_client_never_reads(name: str) -> None:
    """The kernel takes what the client does not: some megabytes, which is more than a context of 4096 tokens."""
    with (
        serving(name, ENGINE_DRAIN="0.3") as process,
        Connection(process.port) as deaf,
        Connection(process.port) as reader,
    ):
        wait_until(lambda: reader.request("GET", "/health").status == 200)
        deaf.send_generate("drip 4000", max_tokens=4000)
        reader.send_generate("drip 4000", max_tokens=4000)
        reader.read_head()
        reader.read_event()
        process.interrupt()
        *_, last = events_of(b"".join(reader.chunks()))
        assert last["error"]["type"] == "shutdown"
        expect_clean_end(process)


@both_doors
@pytest.mark.timeout(300)  # a busy machine takes long to load the model
def test_ctrl_c_ends_a_door_that_was_started_as_a_program(name: str) -> None:
    with in_a_process([f"{name}.py", "--port", "0"]) as process:
        process.wait_until_ready()
        process.interrupt()
        expect_clean_end(process)
        assert process.wait() == -signal.SIGINT


@both_doors
def test_ctrl_c_ends_a_server_that_is_stuck_in_a_send(name: str) -> None:
    """More is unread than the kernel holds. uvicorn waits for that connection for ever unless it is given a limit, as
    `python app.py` does; it then says in its log whom it has cut off."""
    with (
        serving(name, "--timeout-graceful-shutdown", "2", ENGINE_DRAIN="0.1") as process,
        Connection(process.port, receive_buffer=4096) as stuck,
    ):
        wait_until(lambda: health_of(process)["status"] == "ok")
        stuck.send_generate("flood 1000", max_tokens=1000)
        wait_until(lambda: health_of(process)["generated_tokens"] == 1000)
        process.interrupt()
        process.wait()
        assert "Traceback" not in process.log, process.log
        assert "Finished server process" in process.log


@both_doors
def test_a_second_ctrl_c_ends_it_at_once(name: str) -> None:
    with serving(name, ENGINE_DRAIN="1000") as process, Connection(process.port) as connection:
        wait_until(lambda: connection.request("GET", "/health").status == 200)
        connection.send_generate("drip 4000", max_tokens=4000)
        connection.read_head()
        process.interrupt()
        wait_until(lambda: "Waiting for connections" in process.log)
        process.interrupt()
        process.wait()
        assert "Finished server process" in process.log


@both_doors
def test_ctrl_c_while_the_model_loads_ends_it_at_once(name: str) -> None:
    with serving(name, LOAD_SECONDS="1000") as process:
        with Connection(process.port) as connection:
            assert connection.request("GET", "/health").json()["status"] == "loading"
        process.interrupt()
        expect_clean_end(process)


ADDRESSES = r"(?:running on|Serving on) (http://\[::1\]:\d+)"


@pytest.mark.parametrize("name", [*DOORS, "raw_wsgi"])
def test_every_door_listens_on_an_address_of_ipv6(name: str) -> None:
    with in_a_process([f"{name}.py", "--host", "::1", "--port", "0"]) as process:
        assert process.find(ADDRESSES)


@both_doors
def test_another_loop_than_asyncio_is_refused_in_a_sentence(name: str) -> None:
    with in_a_process(["-m", "hypercorn", "-k", "trio", "-b", "127.0.0.1:0", f"{name}:app"]) as process:
        process.find("(start hypercorn with -k asyncio)")

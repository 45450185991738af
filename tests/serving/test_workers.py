"""Several workers over one engine, as processes: what clients see when one is killed, and what is left over."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from uvicorn.config import STARTUP_FAILURE

from config import Config, ConfigError
from serving.workers import engine_running
from study.common.engine import HELLO
from study.common.launcher import ROOT, Process, command_line_of, status_of
from study.common.scripted_workers import NAME, all_ready, ready
from tests.support.asgi_client import Response, events_of
from tests.support.http_client import Connection
from tests.support.serving import DOORS, in_a_process, wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the processes are found in /proc")
ENGINE, WORKER = "engine --until", "spawn_main"
PROGRAM = """
if __name__ == "__main__":
    from study.common.scripted_workers import main
    main()
import os, time
open(str(os.getpid()), "w").close()
time.sleep(600)
"""
"""Serves with workers that never get beyond the import of the main module."""


@contextmanager
def serving(door: str, tmp_path: Path, workers: int = 2) -> Iterator[Process]:
    """A launcher whose folder for the socket is made in `tmp_path`. The folder that it was started in is removed."""
    environ = {"TMPDIR": str(tmp_path), "ENGINE_DRAIN": "0.3", "PYTHONPATH": str(ROOT)}
    folder = tmp_path / "started"
    folder.mkdir()
    with in_a_process(["-m", NAME, door, "--workers", str(workers)], environ, folder=folder) as process:
        wait_until(lambda: all_ready(process, workers), "the start of all")
        folder.rmdir()
        yield process


def answers(process: Process) -> bool:
    """Whether a request works, on a connection of its own."""
    with Connection(process.port) as connection:
        connection.send_generate("hello", stream=False)
        answer = connection.read_response()
        return answer.status == 200 and answer.json()["text"] == "".join(HELLO)


def kept_response(process: Process) -> str:
    """The id of a response that one of the workers has made."""
    with Connection(process.port) as connection:
        answer = connection.request("POST", "/v1/responses", b'{"input": "hello"}', Content_Type="application/json")
        made: str = answer.json()["id"]
        return made


def begin_to_stream(connection: Connection) -> None:
    """Ask for a stream that goes on for longer than any test, and read its first event."""
    connection.send_generate("drip 4000", max_tokens=4000)
    connection.read_head()
    connection.read_event()


def last_event(connection: Connection) -> str:
    *_, last = events_of(b"".join(connection.chunks()))
    kind: str = last["error"]["type"]
    return kind


def kill_while_it_is_asked(worker: int) -> None:
    """Kill a worker that has not answered the last ping of its supervisor, which pings twice a second."""
    os.kill(worker, signal.SIGSTOP)
    time.sleep(1)
    os.kill(worker, signal.SIGKILL)


def first_without_an_engine(connection: Connection) -> Response:
    """Ask for the health until it is not ok: this worker may notice the loss later than the one with the stream."""
    health = connection.request("GET", "/health")
    while health.json()["status"] == "ok":
        health = connection.request("GET", "/health")
    return health


@pytest.mark.parametrize("door", DOORS)
def test_a_killed_process_is_replaced_and_no_stream_is_left_without_an_end(door: str, tmp_path: Path) -> None:
    with serving(door, tmp_path) as process, Connection(process.port) as streaming:
        assert answers(process)
        begin_to_stream(streaming)
        (engine,) = process.children(ENGINE)
        process.popen.send_signal(signal.SIGSTOP)  # so that no other engine is started meanwhile
        os.kill(engine, signal.SIGKILL)
        assert last_event(streaming) == "engine_error"
        with Connection(process.port) as asking:
            health = first_without_an_engine(asking)
            assert (health.status, health.json()["running"]) == (503, 0)
            assert health.json()["status"] == "engine lost: its process has ended"
            assert asking.request("GET", "/live").status == 200
            process.popen.send_signal(signal.SIGCONT)
            wait_until(lambda: asking.request("GET", "/health").status == 200, "another engine")
        wait_until(lambda: process.log.count("The engine is back") == 2)
        path = f"/v1/responses/{kept_response(process)}"
        victim, survivor = process.children(WORKER)
        kill_while_it_is_asked(victim)
        wait_until(lambda: ready(process.log) == 3, "another worker")
        assert survivor in process.children(WORKER)
        assert answers(process)
        for _ in range(8):  # each on a connection of its own, which any worker may take
            with Connection(process.port) as connection:
                assert connection.request("GET", path).status == 200


def test_an_engine_that_is_told_to_end_is_replaced_too(tmp_path: Path) -> None:
    """An operator may do that, and so do guards against a lack of memory."""
    with serving("app", tmp_path, workers=1) as process, Connection(process.port) as streaming:
        begin_to_stream(streaming)
        (engine,) = process.children(ENGINE)
        os.kill(engine, signal.SIGTERM)
        assert last_event(streaming) == "engine_error"
        wait_until(lambda: "The engine is back" in process.log, "another engine")
        assert answers(process)
        process.popen.terminate()
        assert process.wait() == -signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_at_a_signal_streams_get_a_last_event_and_nothing_is_left_over(tmp_path: Path) -> None:
    with serving("raw_asgi", tmp_path) as process, Connection(process.port) as streaming:
        begin_to_stream(streaming)
        family = process.children()
        process.popen.terminate()
        assert last_event(streaming) == "shutdown"
        assert process.wait() == -signal.SIGTERM
        wait_until(lambda: not any(map(command_line_of, family)), "the end of all")
        assert "Traceback" not in process.log
        assert "The engine's process" not in process.log, "it has ended when it was told to"
    assert not list(tmp_path.iterdir())


def test_a_worker_that_cannot_start_ends_the_server_with_a_status_of_its_own() -> None:
    with in_a_process(["-m", NAME, "no_such_door", "--workers", "1"]) as process:
        assert process.wait() == STARTUP_FAILURE


def test_when_the_launcher_is_killed_streams_are_told_and_nothing_is_left_over(tmp_path: Path) -> None:
    with serving("raw_asgi", tmp_path) as process, Connection(process.port) as streaming:
        begin_to_stream(streaming)
        family = process.children()
        process.popen.kill()
        assert last_event(streaming) in ("shutdown", "engine_error")
        wait_until(lambda: not any(map(command_line_of, family)), "the end of all")
    assert not list(tmp_path.iterdir())


GUNICORN = ["-m", "gunicorn", "-k", "uvicorn_worker.UvicornWorker", "--bind"]
SERVERS = {
    "uvicorn": ["-m", "uvicorn", "raw_asgi:app", "--workers", "2", "--port", "0"],
    "gunicorn": [*GUNICORN, "127.0.0.1:0", "--workers", "2", "raw_asgi:app"],
    "hypercorn": ["-m", "hypercorn", "--bind", "127.0.0.1:0", "--workers", "2", "raw_asgi:app"],
    "granian": ["-m", "granian", "--interface", "asgi", "--port", "0", "--workers", "2", "raw_asgi:app"],
}


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_that_would_load_a_model_in_each_worker_ends_with_a_sentence(server: str) -> None:
    with in_a_process(SERVERS[server]) as process:
        process.wait()
        assert "error: 2 workers would load 2 models; run `python app.py --workers 2`" in process.log
        assert "Loading" not in process.log


def test_workers_in_front_of_a_running_server_are_told_that_they_keep_nothing_together() -> None:
    settings = {"ENGINE_BACKEND": "openai", "ENGINE_BACKEND_URL": "http://127.0.0.1:1", "ENGINE_MODEL": "theirs"}
    with in_a_process(SERVERS["uvicorn"], settings) as process:
        wait_until(lambda: "Waiting for the engine" in process.log, "workers that have started")
        assert "warning: each of 2 workers keeps responses and conversations of its own" in process.log


def test_a_mistake_in_the_environment_ends_a_server_with_workers_too() -> None:
    """A worker that would fail again each time must not be started again for ever."""
    with in_a_process(SERVERS["uvicorn"], {"ENGINE_MAX_STREAM": "4"}) as process:
        process.wait()
        assert "error: ENGINE_MAX_STREAM: no such setting" in process.log


def test_gunicorn_serves_with_workers_over_an_engine_that_was_started_separately(tmp_path: Path) -> None:
    environ = {"ENGINE_SOCKET": str(tmp_path / "engine.sock"), "ENGINE_DRAIN": "0.3"}
    command = [*GUNICORN, "127.0.0.1:0", "--workers", "2", "app:app"]
    with in_a_process(["-m", NAME, "engine"], environ), in_a_process(command, environ) as process:
        wait_until(lambda: status_of(process.target) == "ok")
        assert answers(process)
        with Connection(process.port) as streaming:
            streaming.send_generate("drip 4000", max_tokens=4000)
            streaming.read_head()
            streaming.read_event()
            process.popen.terminate()
            assert last_event(streaming) == "shutdown"
        process.wait()


def test_without_a_folder_for_its_socket_the_start_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose file system is read-only."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    refused = pytest.raises(ConfigError, match=r"^expected a folder for temporary files, or a --socket: ")
    with refused, engine_running(Config(), print):
        pass


def test_a_setting_that_a_flag_has_given_its_default_again_reaches_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is passed on through the environment, which says otherwise."""
    monkeypatch.setattr(os, "environ", os.environ | {"ENGINE_MAX_STREAMS": "4"})
    with engine_running(Config(), print, ("-c", "")):
        assert Config.from_environment(os.environ).max_streams == Config().max_streams


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heard_while_workers_start(number: int, tmp_path: Path) -> None:
    """They answer no ping of their supervisor before their imports are done, which here is never."""
    program, begun = tmp_path / "program.py", tmp_path / "begun"
    begun.mkdir()
    program.write_text(PROGRAM)
    with in_a_process([str(program), "app", "--workers", "2"], {"PYTHONPATH": str(ROOT)}, folder=begun) as process:
        wait_until(lambda: len(list(begun.iterdir())) == 2, "both workers")
        time.sleep(1)  # until they have been asked
        family = process.children()
        process.popen.send_signal(number)
        assert process.wait() == -number
        wait_until(lambda: not any(map(command_line_of, family)), "the end of all")

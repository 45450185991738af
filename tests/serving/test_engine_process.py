"""The engine's own process: its socket, its settings, and workers without it."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from config import Config, ConfigError
from interface.engine import EngineService
from interface.errors import LoadError
from serving.engine_process import UnusablePath, listening, serve
from serving.process import CANNOT_LOAD, FAILED
from study.common.launcher import ROOT, Process
from study.common.scripted_workers import NAME, scripted_service
from tests.support.asgi_client import PATIENCE
from tests.support.imports import modules_after
from tests.support.serving import in_a_process
from tests.support.threads import refuse_threads


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(str(path)) == 0


def test_the_socket_is_for_this_user_only_and_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    mask = os.umask(0o022)
    try:
        with listening(str(path)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert connects(path)
            assert os.umask(0o022) == 0o022, "other files are made as before"
    finally:
        os.umask(mask)
    assert not path.exists()


def test_an_engine_whose_socket_has_been_removed_ends_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with listening(str(path)):
        path.unlink()
    assert not path.exists()


def test_a_socket_that_a_dead_engine_has_left_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with listening(str(path)):
        assert connects(path)


def test_a_second_engine_at_the_same_path_is_refused_and_the_first_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with listening(str(path)):
        with pytest.raises(UnusablePath, match="an engine listens at"), listening(str(path)):
            pass
        assert connects(path)


def test_an_engine_that_ends_leaves_the_socket_of_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with listening(str(path)):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as following:
            following.bind(str(path))
    assert path.exists()


def test_a_path_where_something_else_is_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a file"
    path.write_text("precious")
    with pytest.raises(UnusablePath, match="where a file is"), listening(str(path)):
        pass
    assert path.read_text() == "precious"
    for unusable in (tmp_path / "no" / "such" / "folder", tmp_path / ("x" * 200)):
        with pytest.raises(UnusablePath, match="expected a path for a socket"), listening(str(unusable)):
            pass


def test_a_worker_needs_no_model_library() -> None:
    loads = (
        "import raw_asgi, app; from backends.load import load_service; from config import Config; "
        "load_service(Config(socket='x'))"
    )
    loaded = modules_after(loads)
    assert "backends" in loaded
    assert loaded & {"torch", "transformers", "tokenizers", "numpy", "jinja2", "llguidance", "engine"} == set()


def test_settings_survive_the_way_through_the_environment() -> None:
    config = Config(
        model="a/model",
        max_streams=3,
        compile=True,
        api_keys=("one", "two"),
        heartbeat=0.5,
        context=64,
        socket="/a b/engine.sock",
    )
    assert Config.from_environment(config.to_environment()) == config
    assert Config().to_environment() == {}
    with pytest.raises(ConfigError, match="without commas"):
        Config(api_keys=("one,two",)).to_environment()


@contextmanager
def engine_process(path: Path, *options: str, **settings: str) -> Iterator[Process]:
    with in_a_process(["-m", NAME, "engine", *options], {"ENGINE_SOCKET": str(path)} | settings) as process:
        yield process


def test_at_a_signal_the_process_ends_and_its_socket_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with engine_process(path) as process:
        process.find(r"(is ready after)")
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    assert not path.exists()


def refused(*arguments: str, **settings: str) -> tuple[int, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ENGINE_")} | settings
    run = subprocess.run(
        [sys.executable, "-m", "serving.engine_process", *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert "Traceback" not in run.stderr
    return run.returncode, run.stderr


def test_a_process_without_a_path_says_what_it_expects() -> None:
    status, says = refused()
    assert status == 2
    assert "expected ENGINE_SOCKET or --socket" in says


@pytest.mark.anyio
@pytest.mark.parametrize(("error", "status"), [(LoadError("no such model"), CANNOT_LOAD), (OSError("a disk"), FAILED)])
async def test_a_model_that_cannot_be_loaded_ends_the_process_with_a_status_that_says_whether_to_try_again(
    error: Exception, status: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def load(config: Config) -> EngineService:
        raise error

    with listening(str(tmp_path / "engine.sock")) as listener:
        assert await serve(Config(), load, listener, until_stdin_closes=False) == status
    assert str(error) in caplog.text
    assert ("Traceback" in caplog.text) == (status == FAILED)


@pytest.mark.anyio
async def test_a_process_that_is_told_to_end_does_not_wait_for_its_model(tmp_path: Path) -> None:
    may_load = threading.Event()

    def load(config: Config) -> EngineService:
        os.kill(os.getpid(), signal.SIGTERM)
        assert may_load.wait(PATIENCE)
        return scripted_service(config)

    with listening(str(tmp_path / "engine.sock")) as listener:
        assert await serve(Config(), load, listener, until_stdin_closes=False) == 0
    may_load.set()


@pytest.mark.anyio
@pytest.mark.parametrize(("until_stdin_closes", "work"), [(False, "load the model"), (True, "wait for the end of")])
async def test_a_process_that_gets_no_thread_says_so(
    until_stdin_closes: bool,
    work: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    refuse_threads(monkeypatch)
    with listening(str(tmp_path / "engine.sock")) as listener:
        assert await serve(Config(), scripted_service, listener, until_stdin_closes) == CANNOT_LOAD
    assert f"There is no thread to {work}" in caplog.text
    assert "Traceback" not in caplog.text

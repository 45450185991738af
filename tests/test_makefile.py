"""`make serve` on a fresh machine: which torch it installs, and what it prints about it.

Python is a script here that writes down what pip is asked for, so that nothing is installed.
"""

import http.server
import os
import shlex
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOWHERE = "http://127.0.0.1:9/whl/cpu"
"""The port of a service (discard) that no machine runs any more."""
PYTHON = f"""#!/bin/sh
case "$1 $2" in
    "-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip") echo "pip $*" ;;
    "-c "*) exec {shlex.quote(sys.executable)} "$@" ;;
    *) echo "served by $*" ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the Makefile, a Python that installs nothing, and a machine's `nvidia-smi` that finds no GPU."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").touch()
    write_program(tmp_path / "python", PYTHON)
    write_program(tmp_path / "bin" / "nvidia-smi", "#!/bin/sh\nexit 9\n")
    return tmp_path


@pytest.fixture
def index() -> Iterator[str]:
    """An index of packages that can be reached."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/whl/cpu/torch/" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/whl/cpu"
        server.shutdown()


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def make(folder: Path, *arguments: str) -> str:
    environ = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "MAKEFLAGS": ""}
    # Within `make test`, this make would otherwise say which directory it enters and leaves.
    command = ["make", "--no-print-directory", f"PYTHON={folder / 'python'}", *arguments]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere PyPI's torch has no CUDA")


def test_without_a_gpu_torch_comes_from_the_cpu_index_and_one_line_says_so(folder: Path, index: str) -> None:
    output = make(folder, "serve", f"TORCH_CPU={index}")
    assert "No NVIDIA GPU found: installing torch for the CPU (TORCH=cuda installs the one for CUDA).\n" in output
    assert f"pip install --disable-pip-version-check --extra-index-url {index} -r requirements.txt" in output


def test_where_the_cpu_index_cannot_be_reached_the_default_torch_is_installed(folder: Path) -> None:
    output = make(folder, "serve", f"TORCH_CPU={NOWHERE}")
    assert f"No NVIDIA GPU found, but {NOWHERE} cannot be reached: installing the default torch.\n" in output
    assert "pip install --disable-pip-version-check -r requirements.txt" in output


def test_torch_with_cuda_is_installed_where_it_is_asked_for(folder: Path, index: str) -> None:
    output = make(folder, "serve", f"TORCH_CPU={index}", "TORCH=cuda")
    assert "GPU" not in output
    assert "pip install --disable-pip-version-check -r requirements.txt" in output


def test_with_a_gpu_the_default_torch_is_installed(folder: Path, index: str) -> None:
    write_program(folder / "bin" / "nvidia-smi", "#!/bin/sh\necho 'GPU 0'\n")
    output = make(folder, "serve", f"TORCH_CPU={index}")
    assert "No NVIDIA GPU" not in output
    assert "--extra-index-url" not in output


def test_the_second_start_installs_nothing_and_says_what_to_type(folder: Path) -> None:
    make(folder, "serve", f"TORCH_CPU={NOWHERE}")
    output = make(folder, "serve", f"TORCH_CPU={NOWHERE}", "DOOR=raw_asgi")
    assert "pip" not in output
    assert "open http://127.0.0.1:8000" in output
    assert """curl -N http://127.0.0.1:8000/generate -H 'content-type: application/json' -d '{"prompt": """ in output
    assert output.endswith("served by raw_asgi.py\n")

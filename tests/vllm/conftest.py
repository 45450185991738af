"""A door with the real vLLM behind it, and our own engine to compare with: `make test-vllm`.

Both compute SmolLM2-135M-Instruct in float32. Starting vLLM takes a minute or more on two cores, so it is started once
for all tests that leave it alive.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from config import Config
from engine import Engine
from inference.weights.checkpoint import load_checkpoint
from study.common.launcher import ROOT, Process, free_port, running
from tests.support.smollm2 import smollm2_file

PYTHON = os.environ.get("VLLM_PYTHON", str(ROOT / ".venv-vllm/bin/python"))
SETTINGS = {
    "ENGINE_BACKEND": "vllm",
    "ENGINE_DTYPE": "float32",
    "ENGINE_CONTEXT": "1024",
    "ENGINE_MAX_STREAMS": "32",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "2",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this folder: it needs vLLM's environment, and `make test` leaves it out."""
    for item in items:
        if "tests/vllm/" in item.path.as_posix():
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 as a folder: vLLM reads no GGUF files."""
    folder = tmp_path_factory.mktemp("smollm2") / "SmolLM2"
    checkpoint = load_checkpoint(Config(model=str(smollm2_file()), dtype="float32", device="cpu"))
    checkpoint.model.save_pretrained(folder)  # type: ignore[union-attr]
    checkpoint.tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def started(model: Path, **settings: str) -> Iterator[Process]:
    """A door with vLLM behind it, ready."""
    port = free_port()
    everything = {**SETTINGS, "ENGINE_MODEL": str(model), **settings}
    with running(["raw_asgi.py", "--port", str(port)], everything, program=PYTHON) as process:
        process.given_port = port
        process.wait_until_ready()
        yield process


@pytest.fixture(scope="session")
def server(model: Path) -> Iterator[Process]:
    with started(model) as process:
        yield process


@pytest.fixture(scope="session")
def ours(model: Path) -> Engine:
    return Engine.load(Config(model=str(model), dtype="float32", device="cpu", context=1024, max_streams=2))

"""Hub names: what is downloaded, what is already on the disk, and the error if neither works."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoint_folders import save
from tests.support.hub import Hub, running
from tests.support.tiny_models import random_model

ROOT = Path(__file__).parents[2]
DOWNLOAD = """
import logging, sys
from inference.weights.hub import download
from interface.errors import LoadError
logging.basicConfig(level="INFO", format="%(message)s")
try:
    print(download(sys.argv[1], weights="--settings" not in sys.argv))
except LoadError as error:
    print("refused:", error)
"""
LOAD = """
import sys
from config import Config
from engine import Engine
print(Engine.load(Config(model=sys.argv[1], device="cpu")).generate("hello", max_tokens=3)["completion_tokens"])
"""
FILES = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights" * 1000, "other/more.bin": b"no"}
SHARED = {"README.md": b"#", "pytorch_model.bin": b"not this", "consolidated.safetensors": b"nor this"}
QUANTS = {"a-Q4_0.gguf": b"GGUF4", "a-Q8_0-00001-of-00002.gguf": b"GGUF8", "a-Q8_0-00002-of-00002.gguf": b"more"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = save(tmp_path_factory.mktemp("llama"), random_model("llama"))
    llama = {path.name: path.read_bytes() for path in folder.iterdir()}
    repositories = {
        "me/plain": {"main": FILES | SHARED, "old": FILES | {"config.json": b'{"old": 1}'}},
        "me/one-gguf": {"main": {"a.gguf": b"GGUF", "README.md": b"#"}},
        "me/quants": {"main": QUANTS},
        "me/closed": {"main": FILES},
        "me/poems": {"main": {"README.md": b"#"}},
        "me/llama": {"main": llama},
        "me/templates": {"main": FILES | {"additional_chat_templates/tool_use.jinja": b"{{ tools }}"}},
    }
    with running(Hub(repositories, frozenset({"me/closed"}))) as hub:
        yield hub


class Caller:
    """Runs programs as a user does, with a cache of its own."""

    def __init__(self, cache: Path, hub: Hub) -> None:
        self.cache, self.hub = cache, hub

    def run(self, program: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        own = {"HF_HOME": str(self.cache), "HF_ENDPOINT": self.hub.endpoint, "PYTHONPATH": str(ROOT)}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "ENGINE_"))}
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=kept | own | environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=True,
        )

    def download(self, *arguments: str, **environment: str) -> str:
        """The last line that is printed: where the checkpoint is, or why it is not."""
        return self.run(DOWNLOAD, *arguments, **environment).stdout.strip()


@pytest.fixture
def caller(hub: Hub, tmp_path: Path) -> Caller:
    return Caller(tmp_path, hub)


pytestmark = pytest.mark.timeout(200)  # each download is a process of its own, and a test has up to three


def files_in(folder: str) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def test_a_name_brings_the_weights_and_the_small_files_and_shows_how_far_it_is(caller: Caller) -> None:
    done = caller.run(DOWNLOAD, "me/plain")
    assert files_in(done.stdout.strip()) == {"config.json", "tokenizer.json", "model.safetensors"}
    assert "Downloading me/plain (3 files)" in done.stderr
    assert "100%" in done.stderr


@pytest.mark.parametrize("wanted", [["--settings"], []])
def test_a_name_brings_all_chat_templates_with_the_weights_or_without(caller: Caller, wanted: list[str]) -> None:
    folder = Path(caller.download("me/templates", *wanted))
    weights = set() if wanted else {"model.safetensors"}
    assert files_in(str(folder)) == {"config.json", "tokenizer.json", "additional_chat_templates", *weights}
    assert files_in(str(folder / "additional_chat_templates")) == {"tool_use.jinja"}
    if wanted:
        assert caller.download("me/templates", *wanted, HF_HUB_OFFLINE="1") == str(folder)


def test_a_second_start_downloads_nothing_again(caller: Caller) -> None:
    caller.download("me/plain")
    before = len(caller.hub.requested)
    caller.download("me/plain")
    assert not [path for path in caller.hub.requested[before:] if path.endswith("model.safetensors")]


def test_a_revision_is_the_one_that_is_named(caller: Caller) -> None:
    assert (Path(caller.download("me/plain@old")) / "config.json").read_text() == '{"old": 1}'
    assert caller.download("me/plain@new") == "refused: me/plain@new: the hub's me/plain has no revision 'new'"


def test_what_is_on_the_disk_is_served_without_the_hub(caller: Caller) -> None:
    folder = caller.download("me/plain")
    before = len(caller.hub.requested)
    assert caller.download("me/plain", HF_HUB_OFFLINE="1") == folder
    assert len(caller.hub.requested) == before
    assert caller.download("me/plain", HF_ENDPOINT=closed_port()) == folder


def closed_port() -> str:
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_without_a_network_one_line_says_so(caller: Caller) -> None:
    endpoint = closed_port()
    message = caller.download("me/plain", HF_ENDPOINT=endpoint)
    assert message.startswith(
        f"refused: me/plain: the hub at {endpoint} cannot be reached, and the model is not on this disk"
    )
    offline = caller.download("me/plain", HF_HUB_OFFLINE="1")
    assert offline.startswith("refused: me/plain: HF_HUB_OFFLINE is set, and the model is not on this disk")
    assert "\n" not in message + offline


def test_a_token_opens_a_gated_model(caller: Caller) -> None:
    closed = caller.download("me/closed")
    assert closed.startswith(
        "refused: me/closed: the hub shows this model only to accounts that have accepted its terms"
    )
    assert "HF_TOKEN" in closed
    assert "config.json" in files_in(caller.download("me/closed", HF_TOKEN="good"))


def test_a_repository_with_one_gguf_file_is_that_file(caller: Caller) -> None:
    assert files_in(caller.download("me/one-gguf")) == {"a.gguf"}


def test_of_several_gguf_files_one_has_to_be_named(caller: Caller) -> None:
    message = caller.download("me/quants")
    assert message.startswith("refused: me/quants: it has 2 GGUF files; name one of them, as in me/quants/a-Q4_0.gguf")
    assert Path(caller.download("me/quants/a-Q4_0.gguf")).read_bytes() == b"GGUF4"
    split = Path(caller.download("me/quants/a-Q8_0-00001-of-00002.gguf"))
    assert files_in(str(split.parent)) == set(QUANTS)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("me/nothing", "no folder here, and no model of this name on the hub, or one that HF_TOKEN does not open"),
        ("me/poems", "it has neither weights in safetensors nor a .gguf file"),
        ("me/quants/b.gguf", "the hub's me/quants has no file b.gguf"),
        ("me/plain/sub/folder", "expected a folder, a hub name (owner/name), or a .gguf file in one"),
        ("a model", "no folder here, and no hub name; expected owner/name or owner/name@revision"),
    ],
)
def test_what_the_hub_does_not_have_is_reported_in_one_line(caller: Caller, name: str, reason: str) -> None:
    assert caller.download(name) == f"refused: {name}: {reason}"


def test_a_model_from_the_hub_is_served(caller: Caller) -> None:
    assert caller.run(LOAD, "me/llama").stdout.strip() == "3"

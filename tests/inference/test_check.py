"""`python -m inference.check MODEL` says what the server would do with a checkpoint."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from config import BUNDLED_MODEL, Config
from contract.tokens import TokenizerInfo
from inference import check
from inference.weights.text_only import load_text_side
from study.architectures.checkpoints import small_model
from tests.support.tiny_models import byte_tokenizer, random_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_DEVICE", "cpu")


def checked(model: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str]]:
    """The exit status, and the text under each heading; several texts under one heading are lines."""
    status = check.main([model])
    report: dict[str, str] = {}
    for line in capsys.readouterr().out.splitlines():
        name, text = line[:13].strip(), line[13:]
        report[name] = f"{report[name]}\n{text}" if name in report else text
    return status, report


def saved(model: PreTrainedModel, folder: Path) -> str:
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def test_the_bundled_model_is_described_and_served(capsys: pytest.CaptureFixture[str]) -> None:
    status, report = checked(str(BUNDLED_MODEL), capsys)
    assert status == 0
    assert report["architecture"].startswith("LlamaForCausalLM (llama), ")
    assert report["precision"] == "bfloat16 on cpu"
    assert report["context"].startswith("2048 tokens")
    assert "<|eos|>" in report["ends"]
    assert report["template"].endswith(" characters")
    assert report["decoder"] == "operators of torch"
    assert " per token, " in report["cache"]
    short, long = report["compared"].splitlines()
    assert short.startswith("12 tokens in pieces, next to a neighbour: off by 0.0")
    assert long.startswith("150 tokens in pieces, next to a neighbour: off by 0.0")
    assert report["tokens"] == "chosen with operators of torch"
    assert report["result"] == "served"


def test_every_length_that_the_config_names_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, report = checked(saved(random_model("gemma3"), tmp_path), capsys)
    assert status == 0
    assert "20 tokens in pieces, next to a neighbour, beyond the config's sliding_window: off by " in report["compared"]
    assert report["ends"].startswith("no EOS token") or "<eos>" in report["ends"]
    assert report["template"].startswith("none")


def test_what_a_window_saves_is_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = random_model("gemma3")
    model.config.max_position_embeddings = 1000
    _, report = checked(saved(model, tmp_path), capsys)
    # Two kv heads of 16 floats, keys and values; a ring of 288 positions, and one more, in two layers of three.
    assert report["cache"].startswith("256 B per token and 144.5 KiB per stream for 2 layers that look back 8, ")


def test_the_settings_are_read_as_the_server_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_CONTEXT", "64")
    monkeypatch.setenv("ENGINE_DTYPE", "float16")
    monkeypatch.setenv("ENGINE_MAX_STREAMS", "3")
    _, report = checked(saved(random_model("gpt2"), tmp_path), capsys)
    assert report["context"].startswith("64 tokens")
    assert report["precision"] == "float16 on cpu"
    assert report["cache"].endswith(" for 3 streams")


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("falcon", "do not attend through transformers' AttentionInterface"),
        ("deepseek_v32", "beyond 16 tokens, the config's index_topk"),
    ],
)
def test_a_model_that_is_refused_is_described_all_the_same(
    model_type: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, report = checked(saved(small_model(model_type), tmp_path), capsys)
    assert status == 1
    assert model_type in report["architecture"]
    assert report["result"].startswith("refused: ")
    assert reason in report["result"]


@pytest.mark.parametrize("name", ["/no/such/folder", str(ROOT / "README.md")])
def test_what_is_no_model_is_refused_in_a_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = checked(name, capsys)
    assert status == 1
    assert report["result"].startswith(f"refused: {name}: expected a folder")


def test_a_wrong_setting_has_another_exit_status_than_a_wrong_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_CONTEXT", "many")
    assert check.main([]) == 2
    assert capsys.readouterr().err.startswith("error: ENGINE_CONTEXT: expected a whole number")


def test_the_check_runs_as_a_program() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "inference.check", "/no/such"], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert (run.returncode, run.stderr) == (1, "")
    assert "refused: /no/such: expected a folder" in run.stdout


def test_what_a_check_compiles_is_kept_for_the_first_start(tmp_path: Path) -> None:
    settings = {"ENGINE_COMPILE": "1", "ENGINE_COMPILE_CACHE": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-m", "inference.check", str(BUNDLED_MODEL)],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "decoder      C++" in run.stdout
    assert "tokens       chosen in C++\n" in run.stdout
    assert {path.name.partition("-")[0] for path in tmp_path.glob("*.so")} == {"decoder", "choose"}


def test_several_templates_and_an_end_that_no_model_has_are_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = random_model("llama"), byte_tokenizer()
    model.generation_config.eos_token_id = -1
    tokenizer.chat_template = {"default": "usual", "tool_use": "for tools"}
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    status, report = checked(str(tmp_path), capsys)
    assert (status, report["ends"]) == (0, "-1 None")
    assert report["template"] == "default of 5 characters, tool_use of 9 characters"
    text_side = load_text_side(Config(model=str(tmp_path)))
    assert TokenizerInfo(**text_side.info.tokenizer).chat_template == "usual"

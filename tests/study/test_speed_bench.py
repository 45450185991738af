"""The engine's benchmark: what it sends, counts and draws."""

import functools
import json
import shlex
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from config import Config
from inference.weights import llama
from inference.weights.checkpoint import load_checkpoint
from inference.weights.gguf.file import GGUFFile
from inference.weights.quantized import QuantizedMatrix
from inference.weights.take_apart import take_apart
from study.benchmarks import (
    bench_engine,
    bench_gguf,
    bench_speculation,
    engine_loads,
    engine_scenes,
    gguf_checkpoint,
    gpt_oss_file,
    picture,
)
from study.benchmarks.shapes import bytes_per_cached_token, bytes_per_step, prompt, tokenizer, write_checkpoint
from study.common.client import Load, Stream
from study.common.launcher import running


@pytest.mark.parametrize("tokens", [1, 75, 1500])
def test_a_prompt_has_as_many_tokens_as_asked_for_and_begins_like_no_other(tokens: int) -> None:
    made_for = tokenizer("tiny")
    made = [made_for(prompt("tiny", tokens, seed))["input_ids"] for seed in range(50)]
    assert {len(ids) for ids in made} == {tokens}
    assert len({tuple(ids[:3]) for ids in made}) > 40 or tokens == 1


def test_a_step_reads_each_shape_s_weights_once() -> None:
    assert bytes_per_step("135M") == pytest.approx(0.269e9, rel=0.01)
    assert bytes_per_step("1.1B") == pytest.approx(2.07e9, rel=0.01)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_a_step_reads_rounded_weights_with_their_scales(quantize: str, tmp_path: Path) -> None:
    model = load_checkpoint(Config(model=str(write_checkpoint("tiny", tmp_path)))).model
    assert isinstance(model, PreTrainedModel)
    rounded = llama.quantized(take_apart(model, positions=16), quantize)
    matrices = [rounded.head, *(matrix for layer in rounded.layers for matrix in layer.matrices.values())]
    held = sum(matrix.blocks.nbytes for matrix in matrices if isinstance(matrix, QuantizedMatrix))
    assert bytes_per_step("tiny", quantize) == pytest.approx(held, rel=0.01)


def test_a_step_reads_the_keys_and_values_of_each_layer() -> None:
    assert bytes_per_cached_token("135M") == 30 * 3 * 64 * 2 * 2


@pytest.fixture
def little_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a figure is made of matters here, and not how exact it is."""
    monkeypatch.setattr(engine_loads, "NUMBERS_READ", 1 << 16)
    for name in ("shared_prefix", "shared_prefix_gaps"):
        short = functools.partial(getattr(engine_scenes, name), streams=2, tokens=100)
        monkeypatch.setattr(engine_scenes, name, short)


@pytest.mark.timeout(400)  # it starts a real server
@pytest.mark.usefixtures("little_is_measured")
def test_the_benchmark_measures_a_real_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = ["--no-scenes", "--sampling", "--shared-prefix"]
    bench_engine.main(["--shape", "tiny", "--streams", "1,2", "--rounds", "1", *scenes, "--results", str(tmp_path)])
    report = json.loads((tmp_path / "engine-tiny.json").read_text())
    assert [row["streams"] for row in report["rows"]] == [1, 2]
    assert all(row["tokens_per_second"] > 0 and row["health_p99_ms"] > 0 for row in report["rows"])
    assert report["start_up_s"] > 0
    assert report["peak_memory_bytes"] > 50e6
    assert report["share_of_floor"] > 0  # without bounds: tokens of so small a model may arrive together
    assert [row["streams"] for row in report["sampling"]] == [1, 16]
    assert report["shared_prefix"]["ratio"] > 0
    assert report["shared_prefix_gaps"]["shared"] > 0
    assert "tok/s" in capsys.readouterr().out
    drawn = ElementTree.fromstring((tmp_path / "engine-tiny.svg").read_text())
    assert drawn.tag.endswith("svg")


def test_a_file_of_gpt_oss_is_computed_from_its_blocks(tmp_path: Path) -> None:
    file = tmp_path / "small.gguf"
    small = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "width": 32, "vocabulary": 600}
    gpt_oss_file.write(file, gpt_oss_file.Sizes(**small, experts=4, per_token=2))
    model = load_checkpoint(Config(model=str(file), compile=True, device="cpu", context=64)).model
    assert isinstance(model, llama.Llama)
    assert model.formats == {"MXFP4", "Q8_0"}
    assert model.sizes.experts == llama.Experts(4, 2, weights_add_up=True)


@pytest.mark.timeout(400)  # it starts two real servers
@pytest.mark.usefixtures("little_is_measured")
def test_a_gguf_file_is_measured_on_our_server_and_on_a_peer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.gguf"
    gguf_checkpoint.write(write_checkpoint("tiny", tmp_path / "tiny"), file, "Q4_0")
    peer = f"env ENGINE_MODEL={{model}} {shlex.quote(sys.executable)} -m uvicorn raw_asgi:app --port {{port}}"
    bench_engine.main(
        [
            *("--gguf", str(file), "--streams", "1,2", "--rounds", "1", "--results", str(tmp_path)),
            *("--peer-command", peer, "--peer-path", "/generate"),
        ]
    )
    report = json.loads((tmp_path / "gguf-tiny.json").read_text())
    assert [(row["streams"], row["server"]) for row in report["rows"]] == [
        (count, server) for count in (1, 2) for server in ("ours", "peer")
    ]
    assert all(row["tok/s"] > 0 and row["ttft"] > 0 for row in report["rows"])
    assert report["bytes_per_step"] == pytest.approx(18 / 32 * bytes_per_step("tiny") / 2, rel=0.02)
    assert set(report["memory_bytes"]) == set(report["ready_s"]) == {"ours", "peer"}
    printed = capsys.readouterr().out
    assert "ENGINE_COMPILE=1" in printed
    assert "raw_asgi:app" in printed


def test_a_gguf_prompt_is_made_of_words_that_are_one_token_each(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    gguf_checkpoint.write(write_checkpoint("tiny", tmp_path / "tiny"), file, "Q8_0")
    opened = GGUFFile.open(file)
    words = bench_gguf.words_of(opened)
    assert len(words) > 100
    tokenizer = load_checkpoint(Config(model=str(file), device="cpu")).tokenizer
    assert len(tokenizer(bench_gguf.prompt_of(words[:75], opened), add_special_tokens=False)["input_ids"]) == 75


def test_two_kinds_of_texts_to_guess_from_repeat_their_prompt_and_need_a_model_that_can() -> None:
    *repeating, others = bench_speculation.texts().values()
    assert len(repeating) == 2
    assert all(prompt.count(prompt[-100:]) == 2 for kind in repeating for prompt in kind.prompts)
    assert all(prompt.count(prompt[-10:]) == 1 for prompt in others.prompts)
    with pytest.raises(SystemExit):
        bench_engine.main(["--shape", "tiny", "--speculate"])


def test_what_guessing_gains_is_measured_without_the_round_that_fills_the_cache() -> None:
    with running(["-c", "pass"]) as process:
        turns = bench_speculation.Turns(process)
    for seconds in ((9.0, 2.0, 4.0, 3.0), (9.0, 1.0, 1.0, 1.0)):
        streams = [Stream(0.0, 0.0, [5.0, 5.1, 5.0 + span], 0.0, 3) for span in seconds]
        turns.add([(Load([stream], 1.0, []), 0.5) for stream in streams])
    assert turns.spans == pytest.approx([3.0, 1.0])
    assert turns.cpu == pytest.approx(1.0)


def test_the_picture_has_a_line_for_each_server() -> None:
    rows = [
        {"server": server, "streams": streams, "tokens_per_second": speed * streams}
        for server, speed in (("ours", 30.0), ("peer", 10.0))
        for streams in (1, 4, 16)
    ]
    drawn = picture.tokens_over_streams({"shape": "135M", "how": "default", "rows": rows})
    elements = [element.tag.rpartition("}")[2] for element in ElementTree.fromstring(drawn).iter()]
    assert elements.count("polyline") == 2
    assert elements.count("circle") == 6
    assert "480" in drawn
    assert "160" in drawn

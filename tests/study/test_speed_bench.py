"""The engine's benchmark: what it sends, what it counts, what it draws."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from study.benchmarks import bench_engine, picture
from study.benchmarks.load import Load, LoadFailed, Stream, Target, _stream, percentile
from study.benchmarks.shapes import _tokenizer, bytes_per_step, prompt

OURS: list[tuple[float, dict[str, Any]]] = [
    (1.1, {"token": "", "token_id": 3, "prefill_time_ms": 90.0}),
    (1.3, {"token": "é", "token_id": 4, "step_ms": 20.0}),
    (1.4, {"finish_reason": "length", "prompt_tokens": 75, "completion_tokens": 2, "total_time_ms": 400.0}),
]
OPENAI: list[tuple[float, dict[str, Any]]] = [
    (1.1, {"choices": [{"text": "w1"}]}),
    (1.3, {"choices": [{"text": " w2 w3"}]}),
    (1.4, {"choices": [{"text": "", "finish_reason": "length"}], "usage": {"completion_tokens": 3}}),
]


@pytest.mark.parametrize("tokens", [1, 75, 1500])
def test_a_prompt_has_as_many_tokens_as_asked_for_and_begins_like_no_other(tokens: int) -> None:
    tokenizer = _tokenizer(512)
    made = [tokenizer(prompt("tiny", tokens, seed))["input_ids"] for seed in range(50)]
    assert {len(ids) for ids in made} == {tokens}
    assert len({tuple(ids[:3]) for ids in made}) > 40 or tokens == 1


def test_a_step_reads_each_shape_s_weights_once() -> None:
    assert bytes_per_step("135M") == pytest.approx(0.269e9, rel=0.01)
    assert bytes_per_step("1.1B") == pytest.approx(2.07e9, rel=0.01)


def test_a_stream_s_tokens_are_those_that_the_server_reports() -> None:
    ours, theirs = _stream(1.0, OURS), _stream(1.0, OPENAI)
    assert (ours.tokens, theirs.tokens) == (2, 3)
    assert ours.arrivals == theirs.arrivals == [1.1, 1.3]
    assert ours.first_token_after == pytest.approx(0.1)
    assert ours.gaps == [pytest.approx(0.2)]


@pytest.mark.parametrize("events", [[], [(1.0, {"error": {"message": "shutting down", "type": "shutdown"}})]])
def test_a_stream_that_does_not_end_well_is_no_measurement(events: list[tuple[float, dict[str, object]]]) -> None:
    with pytest.raises(LoadFailed):
        _stream(0.0, events)


def test_the_figures_are_of_all_streams_together() -> None:
    streams = [Stream(0.0, [0.1, 0.2, 0.4], 3, {}), Stream(0.0, [0.3, 0.4], 2, {})]
    figures = Load(streams, seconds=0.5, health=[0.001, 0.002, 0.009]).figures()
    assert figures["tokens_per_second"] == pytest.approx(10)
    assert figures["ttft_max_ms"] == pytest.approx(300)
    assert figures["gap_p50_ms"] == pytest.approx(100)
    assert figures["gap_p99_ms"] == pytest.approx(200)
    assert figures["health_p99_ms"] == pytest.approx(9)
    assert percentile([3, 1, 2], 50) == 2


def test_each_kind_of_server_gets_the_body_that_it_knows() -> None:
    assert Target("http://127.0.0.1:1/generate").body("p", 4)["ignore_eos"] is True
    theirs = Target("http://127.0.0.1:1/v1/completions", "some/model").body("p", 4)
    assert theirs["model"] == "some/model"
    assert "ignore_eos" not in theirs
    assert Target("http://127.0.0.1:1/v1/completions").beside("/health") == "http://127.0.0.1:1/health"


@pytest.mark.timeout(150)  # it starts a real server
def test_the_benchmark_measures_a_real_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench_engine.main(
        ["--shape", "tiny", "--streams", "1,2", "--rounds", "1", "--no-scenes", "--results", str(tmp_path)]
    )
    report = json.loads((tmp_path / "engine-tiny.json").read_text())
    assert [row["streams"] for row in report["rows"]] == [1, 2]
    assert all(row["tokens_per_second"] > 0 and row["health_p99_ms"] > 0 for row in report["rows"])
    assert report["start_up_s"] > 0
    assert report["peak_memory_bytes"] > 50e6
    assert 0 < report["share_of_floor"] < 1
    assert "tok/s" in capsys.readouterr().out
    drawn = ElementTree.fromstring((tmp_path / "engine-tiny.svg").read_text())
    assert drawn.tag.endswith("svg")


def test_the_picture_has_a_line_for_each_server() -> None:
    rows = [
        {"server": server, "streams": streams, "tokens_per_second": speed * streams}
        for server, speed in (("ours", 30.0), ("peer", 10.0))
        for streams in (1, 4, 16)
    ]
    drawn = picture.tokens_over_streams({"shape": "135M", "how": "as it comes", "rows": rows})
    elements = [element.tag.rpartition("}")[2] for element in ElementTree.fromstring(drawn).iter()]
    assert elements.count("polyline") == 2
    assert elements.count("circle") == 6
    assert "480" in drawn
    assert "160" in drawn

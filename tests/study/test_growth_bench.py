"""The benchmark of how cost grows prints and keeps each row as it is measured."""

from collections.abc import Iterator, Sequence

import pytest

from study.benchmarks import bench_growth
from study.benchmarks.bench_growth import Row, measure, with_contexts, with_prompts
from study.benchmarks.shapes import bytes_per_cached_token
from study.common.client import Load, Stream


class FakeServer:
    """Answers at once, and records the requests."""

    shape = "tiny"
    weight_bytes = 1000

    def __init__(self) -> None:
        self.prompt_lengths: list[list[int]] = []

    def prompts(self, streams: int, tokens: int) -> list[str]:
        return [" ".join(["w1"] * tokens)] * streams

    def load(self, server: str, prompts: Sequence[str], max_tokens: int) -> Load:
        self.prompt_lengths.append([len(prompt.split()) for prompt in prompts])
        streams = [Stream(1.0, 1.0, [1.25, 1.5], 1.5, max_tokens) for _ in prompts]
        return Load(streams, 1.0, [])


def test_a_row_is_there_before_the_next_one_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    kept: list[Row] = []
    saved: list[int] = []

    def rows() -> Iterator[Row]:
        yield {"context": 128, "gap_ms": 1.5}
        assert (len(kept), saved) == (1, [1])
        assert "128.00" in capsys.readouterr().out
        yield {"context": 512, "gap_ms": 2.5}

    measure("contexts", rows(), kept, lambda: saved.append(len(kept)))
    assert saved == [1, 2]


def test_long_prompts_are_sent_once_and_short_ones_three_times() -> None:
    server = FakeServer()
    rows = list(with_prompts(server, (16, 8192)))
    assert server.prompt_lengths == [[16]] * 3 + [[8192]]
    assert [row["times"] for row in rows] == [3, 1]


def test_eight_streams_share_a_context_that_one_has_left_in_the_cache() -> None:
    server = FakeServer()
    [row] = with_contexts(server, lambda: 1e9, (128,))
    assert server.prompt_lengths == [[132], [132] * 8]
    of_one = 128 * bytes_per_cached_token("tiny")
    assert row["floor_1_ms"] == pytest.approx(1e3 * (1000 + of_one) / 1e9)
    assert row["floor_8_ms"] == pytest.approx(1e3 * (1000 + 8 * of_one) / 1e9)


def test_the_server_of_long_contexts_has_room_for_all_of_them() -> None:
    context = int(bench_growth.LONG_CONTEXTS["ENGINE_CONTEXT"])
    assert max(*bench_growth.CONTEXTS, *bench_growth.PROMPTS) + 64 <= context

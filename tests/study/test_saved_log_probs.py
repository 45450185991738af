"""The loss benchmark's peer: llama.cpp's saved log probabilities, and programs that fail."""

import shlex
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from inference.tensor_thread import on_tensor_thread
from study.benchmarks.loss import CHUNK, Comparison, main, predictions
from study.benchmarks.saved_log_probs import PeerFailed, SavedLogProbs, as_saved, computed_by
from tests.support.gguf_files import write_gguf
from tests.support.tiny_models import NO_ENDS, SHAPE, bpe_tokenizer, model_of

CONTEXT, VOCABULARY = 8, 5
SCORED = CONTEXT // 2 - 1


def saved(path: Path, tokens: Tensor, log_probs: Tensor) -> Path:
    """Write `tokens` [chunks, context] and `log_probs` [chunks, scored, vocabulary] as `llama-perplexity` does."""
    chunks, context = tokens.shape
    parts = [b"_logits_", struct.pack("<Iii", context, log_probs.shape[-1], chunks)]
    parts.append(tokens.numpy().astype("<i4").tobytes())
    for row in log_probs.flatten(0, 1).numpy():
        scale = (row.max() - row.min()) / 65535
        codes = np.rint((row - row.min()) / scale).astype("<u2")
        parts += [struct.pack("<ff", scale, row.min()), codes.tobytes(), b"\0" * (2 * (len(row) % 2))]
    path.write_bytes(b"".join(parts))
    return path


def program(path: Path, lines: Sequence[str]) -> Path:
    """Write a program in Python. A shell starts it: the path in a `#!` line can have no spaces."""
    start = f"""#!/bin/sh\nexec {shlex.quote(sys.executable)} - "$@" <<'END'"""
    path.write_text("\n".join([start, *lines, "END"]) + "\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("vocabulary", [5, 6])
def test_log_probabilities_are_read_as_they_were_saved(tmp_path: Path, vocabulary: int) -> None:
    log_probs = torch.randn(2, SCORED, vocabulary, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    tokens = torch.arange(2 * CONTEXT).view(2, CONTEXT)
    read = SavedLogProbs(saved(tmp_path / "saved", tokens, log_probs))
    assert torch.equal(read.tokens, tokens)
    for number in range(2):
        assert torch.allclose(read.chunk(number), log_probs[number], atol=1e-4)


def test_ours_are_kept_in_the_range_that_such_a_file_has() -> None:
    kept = as_saved(torch.tensor([[-1.0, -3.0, -40.0]]))
    assert kept.tolist() == [[-1.0, -3.0, -17.0]]


def test_a_program_gets_the_text_and_its_file_is_read(tmp_path: Path) -> None:
    made = saved(tmp_path / "made", torch.zeros(1, CONTEXT, dtype=torch.int64), torch.randn(1, SCORED, VOCABULARY))
    lines = ["import shutil, sys", "to = sys.argv[sys.argv.index('--kl-divergence-base') + 1]"]
    copies = program(tmp_path / "llama-perplexity", [*lines, f"shutil.copy({str(made)!r}, to)"])
    read = computed_by(copies, tmp_path / "model", tmp_path / "text", tmp_path / "saved", CONTEXT, [])
    assert read.chunk(0).shape == (SCORED, VOCABULARY)


def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    fails = program(tmp_path / "llama-perplexity", ["import sys", "sys.exit('the model is a teapot')"])
    with pytest.raises(PeerFailed, match=r"status 1:\nthe model is a teapot"):
        computed_by(fails, tmp_path / "model", tmp_path / "text", tmp_path / "saved", CONTEXT, [])
    with pytest.raises(PeerFailed, match=r"expected a program of llama\.cpp at"):
        computed_by(tmp_path / "none", tmp_path / "model", tmp_path / "text", tmp_path / "saved", CONTEXT, [])


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"GGUF and more")
    with pytest.raises(PeerFailed, match="expected log probabilities"):
        SavedLogProbs(tmp_path / "other")


def test_other_formats_need_the_program_that_makes_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["model.gguf", "--kinds", "Q4_0"])
    assert "--kinds needs --peer-perplexity" in capsys.readouterr().err


def test_what_is_further_off_diverges_more(capsys: pytest.CaptureFixture[str]) -> None:
    random = torch.Generator().manual_seed(0)
    comparison = Comparison([torch.randint(VOCABULARY, (CHUNK,), generator=random) for _ in range(2)])
    exact = torch.randn(2, CHUNK // 2 - 1, VOCABULARY, generator=random)
    noise = torch.randn(exact.shape, generator=random)
    for size in (0.0, 0.1, 1.0):
        comparison.add(f"{size}", (exact + size * noise).log_softmax(-1).__getitem__)
    table = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    divergences, same = [float(row[2]) for row in table], [float(row[6].rstrip("%")) for row in table]
    assert divergences[0] == 0 < divergences[1] < divergences[2]
    assert same[0] == 100 > same[1] > same[2]


def test_a_file_computed_from_its_blocks_predicts_what_exact_weights_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = LlamaConfig(
        **SHAPE | NO_ENDS | {"max_position_embeddings": CHUNK, "hidden_size": 64, "intermediate_size": 64}
    )
    path = write_gguf(tmp_path / "model.gguf", model_of(config), bpe_tokenizer(), kind="Q8_0")
    chunk = torch.arange(CHUNK) % config.vocab_size
    on_tensor_thread(lambda: predictions(path, [chunk], {}, only_blocks=True))
    exact, blocks = capsys.readouterr().out.splitlines()[2:]
    assert exact.split()[2] == "0.000000"
    assert float(blocks.removeprefix("blocks, compiled").split()[1]) < 0.01

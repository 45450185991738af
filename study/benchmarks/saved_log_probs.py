"""llama.cpp's predictions: runs its `llama-perplexity`, and reads the log probabilities that it saves.

The file holds `_logits_`, the sizes of the context and the vocabulary, the number of chunks, the tokens, and then, for
each token of a chunk's second half that has another one behind it, a scale and a minimum in float32 and a code of 16
bits for each token of the vocabulary. A log probability is the minimum plus scale times code; what is more than
`RANGE` below the most likely token is kept as `RANGE` below it.
"""

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MAGIC = b"_logits_"
RANGE = 16.0
HEADER = 4
"""Codes that a scale and a minimum take the place of."""


class PeerFailed(Exception):
    """One of llama.cpp's programs failed; the message has its output."""


class SavedLogProbs:
    """The tokens and the log probabilities of one such file, which stays mapped."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            if (magic := file.read(len(MAGIC))) != MAGIC:
                raise PeerFailed(f"{path}: expected log probabilities, which begin with {MAGIC!r}, got {magic!r}")
            context, self._vocabulary, chunks = struct.unpack("<Iii", file.read(12))
            tokens = np.frombuffer(file.read(4 * context * chunks), dtype="<i4").reshape(chunks, context)
            begin = file.tell()
        self.tokens = torch.from_numpy(tokens.astype(np.int64))  # [chunks, context]
        scored = context - 1 - context // 2
        row = 2 * -(-self._vocabulary // 2) + HEADER
        self._rows = np.memmap(path, dtype="<u2", mode="r", offset=begin, shape=(chunks, scored, row))

    def chunk(self, number: int) -> Tensor:
        """Log probabilities [scored, vocabulary] after each token of a chunk's second half but the last token."""
        rows = np.array(self._rows[number])
        scales = torch.from_numpy(rows[:, :HEADER].copy().view("<f4"))  # [scored, 2]: scale, minimum
        codes = torch.from_numpy(rows[:, HEADER:][:, : self._vocabulary].astype(np.float32))
        return codes * scales[:, :1] + scales[:, 1:]


def as_saved(log_probs: Tensor) -> Tensor:
    """Log probabilities [tokens, vocabulary] in the range that such a file keeps."""
    return log_probs.maximum(log_probs.amax(-1, keepdim=True) - RANGE)


def computed_by(
    program: Path, model: Path, text: Path, to: Path, context: int, options: Sequence[str]
) -> SavedLogProbs:
    """Have `llama-perplexity` compute the log probabilities of a text and save them in the file `to`."""
    sizes = ["--ctx-size", str(context), "--batch-size", str(context)]
    _run(program, "--model", str(model), "--file", str(text), "--kl-divergence-base", str(to), *sizes, *options)
    return SavedLogProbs(to)


def requantized(program: Path, model: Path, kind: str, to: Path) -> Path:
    """Have `llama-quantize` write all matrices in this format, or in another one where their size does not allow it."""
    _run(program, "--allow-requantize", "--pure", str(model), str(to), kind)
    return to


def _run(program: Path, *arguments: str) -> None:
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    except OSError as error:
        raise PeerFailed(f"expected a program of llama.cpp at {program}: {error.strerror}") from None
    if done.returncode:
        raise PeerFailed(f"{program} ended with status {done.returncode}:\n{done.stderr[-2000:]}")

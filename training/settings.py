"""Sizes, places and seeds, in one frozen object each: FULL makes the bundled model, TOY proves the program in a minute.

The training is three courses. The first teaches everything. The second goes over it again at a lower learning rate, on
new text in which the topics are asked in many more ways. The third has much to copy, word by word.

Invariant: a course's corpus depends on its `name`, `seed` and `documents` alone, so equal settings give equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "training" / "build"  # ignored by git: corpus, encoded rows, optimizer state
MODEL = ROOT / "bundled_model"


@dataclass(frozen=True)
class Course:
    """A part of the training: a corpus of its own, read `epochs` times at a share of the full learning rate."""

    name: str
    seed: int
    documents: int
    epochs: float
    rate: float = 1.0


@dataclass(frozen=True)
class Settings:
    """Everything that decides what the training makes, except where it is written."""

    name: str
    courses: tuple[Course, ...]
    seed: int = 20_240_229
    vocabulary: int = 4096
    hidden: int = 256
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4  # two query heads share one key/value head
    mlp: int = 768
    context: int = 2048
    tokens_per_step: int = 4096
    row_lengths: tuple[int, ...] = (256, 512, 1024)  # a document goes into rows of the first length that holds it
    muon_rate: float = 3e-3
    adam_rate: float = 2e-3
    warmup: float = 0.02  # shares of all steps
    cooldown: float = 1.0  # from the warm-up on, in a straight line
    save_every: int = 100


FULL = Settings(
    name="full",
    courses=(
        Course("first", seed=20_240_229, documents=300_000, epochs=1.5),
        Course("second", seed=20_240_301, documents=120_000, epochs=1, rate=0.5),
        Course("third", seed=20_240_302, documents=110_000, epochs=1, rate=0.6),
    ),
)
TOY = Settings(
    name="toy",
    courses=(
        Course("first", seed=20_240_229, documents=800, epochs=1.5),
        Course("second", seed=20_240_301, documents=200, epochs=1, rate=0.5),
        Course("third", seed=20_240_302, documents=200, epochs=1, rate=0.5),
    ),
    vocabulary=1024,
    hidden=64,
    layers=2,
    heads=4,
    kv_heads=2,
    mlp=128,
    tokens_per_step=2048,
    save_every=5,
)

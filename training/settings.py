"""Sizes, places and seeds, in two frozen objects: FULL makes the bundled model, TOY tries the program in a minute.

Invariant: the corpus depends on `seed` and the parts' `documents` alone, so equal settings give equal bytes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "training" / "build"  # ignored by git: the corpus and the training's state
MODEL = ROOT / "bundled_model"


class Part(NamedTuple):
    """So many documents, each read once, while the learning rate goes from one share of its full height to another."""

    documents: int
    first_rate: float
    last_rate: float
    question_weight: float  # in the loss, of a question's tokens; an answer's have one


@dataclass(frozen=True)
class Settings:
    """Everything that decides what the training makes, except where it is written."""

    name: str
    parts: tuple[Part, ...]  # what they are made of says `corpus.SOURCES`
    seed: int = 20_240_229
    vocabulary: int = 4096
    hidden: int = 256
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4  # two query heads share one key/value head
    mlp: int = 768
    context: int = 2048
    tokens_per_step: int = 4096
    row_lengths: tuple[int, ...] = (128, 192, 384, 1024)  # a document goes into rows of the first length that holds it
    muon_rate: float = 3e-3
    adam_rate: float = 2e-3
    warmup: int = 200  # steps
    save_every: int = 100


# Questions have a small weight, for the words that are in no answer, and none in the last part: a model that learns
# how a question goes on after "a story about a dragon" adds a full stop of its own before the answer.
FULL = Settings(name="full", parts=(Part(330_000, 1, 0.5, 0.2), Part(395_000, 0.5, 0, 0.2), Part(125_000, 0.4, 0, 0)))
TOY = Settings(
    name="toy",
    parts=(Part(600, 1, 0.5, 0.2), Part(600, 0.5, 0, 0.2), Part(600, 0.3, 0, 0)),
    warmup=3,
    vocabulary=1024,
    hidden=64,
    layers=2,
    heads=4,
    kv_heads=2,
    mlp=128,
    tokens_per_step=2048,
    save_every=5,
)

"""The training text: one JSON line per document, made from nothing but this folder, the same bytes every time.

There are three parts, see `settings.Part`. The second has more sums: carrying is learned late, by much practice. The
third has much to copy, words of every beginning among it, and sums that one of two opposite words decides.

A document is a plain prompt with its answer, or a chat of one or more turns. No held-out question is in it: a
question whose key belongs to a held-out case is drawn again (`tests/training/test_training.py` proves the result).

    python -m training.corpus            # training/build/corpus.jsonl, and its SHA-256
    python -m training.corpus --toy
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

from training import arithmetic, poems, recitals, smalltalk, stories, topics, unknown, words
from training.noise import noisy
from training.settings import BUILD, FULL, TOY, Settings
from training.split import Case, Example, key

CORPUS_SHA256 = "affa72296b7ea640ea0a01d86dc022e20558d2afb159b005794d3d64d22cbcc3"
"""Of FULL's corpus; a test makes it again."""


class Source(NamedTuple):
    """One kind of text: how to draw a taught example, which cases are held out, its shares of each part's questions."""

    draw: Callable[[Random], Example]
    cases: Callable[[], Iterator[Case]]
    weights: tuple[float, float, float]


def _no_cases() -> Iterator[Case]:
    return iter(())


SOURCES = (
    Source(arithmetic.draw, arithmetic.cases, (60, 140, 50)),
    Source(topics.draw, topics.cases, (80, 80, 75)),
    Source(unknown.draw, unknown.cases, (20, 20, 18)),
    Source(stories.draw, stories.cases, (16, 16, 0)),
    Source(poems.draw, poems.cases, (4, 4, 6)),
    Source(recitals.draw, recitals.cases, (40, 40, 30)),
    Source(smalltalk.draw, smalltalk.cases, (5, 5, 8)),
    Source(arithmetic.draw_opposites, _no_cases, (0, 0, 25)),
    Source(stories.draw_unexpected, _no_cases, (0, 0, 24)),
    Source(stories.draw_beginning, _no_cases, (0, 0, 50)),
    Source(partial(recitals.draw_repeating, unheard=words.unexpected), _no_cases, (0, 0, 70)),
)

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful, honest and harmless assistant.",
    "Answer briefly.",
    "You are a friendly teacher.",
    "You are the bundled model of Token by token.",
    "Be concise and kind.",
    "Answer in plain English.",
    "You are a small language model.",
)


def cases() -> list[Case]:
    """Every held-out case of every source."""
    return [case for source in SOURCES for case in source.cases()]


def _drawer(rng: Random, number: int) -> Callable[[], Example]:
    weights = [source.weights[number] for source in SOURCES]
    forbidden = {key(case.question) for case in cases()}

    def draw() -> Example:
        while True:
            example = rng.choices(SOURCES, weights)[0].draw(rng)
            if key(example.question) in forbidden:
                continue
            if example.kind == "repeat":  # every letter counts
                return example
            question = noisy(rng, example.question, typos=example.kind not in ("story", "poem"))
            if key(question) not in forbidden:
                return example._replace(question=question)

    return draw


def documents(settings: Settings) -> Iterator[dict[str, object]]:
    """The documents in their order: {"kind", "system", "turns": [[question, answer], ...], "chat"}."""
    for number, part in enumerate(settings.parts):
        rng = Random(settings.seed + number)
        draw = _drawer(rng, number)
        for _ in range(part.documents):
            yield _document(rng, draw)


def _document(rng: Random, draw: Callable[[], Example]) -> dict[str, object]:
    first = draw()
    chat = rng.random() < 0.5
    system, turns = "", [[first.question, first.answer]]
    if chat and rng.random() < 0.2:
        system = rng.choice(SYSTEMS)
    if chat and rng.random() < 0.12:  # a conversation: earlier turns must not confuse the next answer
        for _ in range(rng.choice((1, 1, 2, 2, 3, 5))):
            example = draw()
            turns.append([example.question, example.answer])
    return {"kind": first.kind, "system": system, "turns": turns, "chat": chat}


def path_of(build: Path) -> Path:
    """Where the corpus is kept."""
    return build / "corpus.jsonl"


def write(settings: Settings, build: Path) -> str:
    """Write the corpus and return the SHA-256 of its bytes."""
    path = path_of(build)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for document in tqdm(
            documents(settings), total=sum(part.documents for part in settings.parts), desc="corpus", unit="doc"
        ):
            line = json.dumps(document, ensure_ascii=False).encode() + b"\n"
            digest.update(line)
            file.write(line)
    return digest.hexdigest()


def read(build: Path) -> Iterator[dict[str, object]]:
    """The documents of the written corpus."""
    with path_of(build).open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.corpus", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--toy", action="store_true", help="a corpus for a minute's training")
    parser.add_argument("--build", type=Path, default=BUILD, help="folder for the corpus")
    options = parser.parse_args()
    sha256 = write(TOY if options.toy else FULL, options.build)
    print(f"{path_of(options.build).name} sha256 {sha256}")


if __name__ == "__main__":
    main()

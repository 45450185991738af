"""The training text: one JSON line per document, made from nothing but this folder, the same bytes every time.

A document is a plain prompt with its answer, or a chat of one or more turns. No held-out question is in it: a
question whose key belongs to a held-out case is drawn again (`tests/test_training.py` proves the result).

    python -m training.corpus            # training/build/corpus-first.jsonl and -second.jsonl, with their SHA-256
    python -m training.corpus --toy
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

from training import arithmetic, poems, recitals, smalltalk, stories, topics, unknown
from training.noise import noisy
from training.settings import BUILD, FULL, TOY, Course
from training.split import Case, Example, key

CORPUS_SHA256 = {  # of FULL's courses; a test makes them again
    "first": "c8d898cb4622f1a3827716425cd5d864ad105366f53423e30c1fd5067b318488",
    "third": "07acdb8ac801cb65a8c7b4a72442776e4aa0058fefa636333d1cdfe0ff2f4beb",
    "second": "ececc02e975e2f4972599dc63cd939968479128334c12287966528ba3591b9e3",
}


class Source(NamedTuple):
    """One kind of text: how to draw a taught example, which cases are held out, and its share of all questions."""

    draw: Callable[[Random], Example]
    cases: Callable[[], Iterator[Case]]
    weight: float


SOURCES = {
    "first": (
        Source(arithmetic.draw, arithmetic.cases, 56),
        Source(topics.draw, topics.cases, 40),
        Source(unknown.draw, unknown.cases, 12),
        Source(stories.draw, stories.cases, 9),
        Source(poems.draw, poems.cases, 3),
        Source(recitals.draw, recitals.cases, 9),
        Source(smalltalk.draw, smalltalk.cases, 4),
    ),
    "second": (
        Source(partial(arithmetic.draw, further=arithmetic.FURTHER), arithmetic.cases, 40),
        Source(topics.draw_further, topics.cases, 76),
        Source(unknown.draw, unknown.cases, 16),
        Source(partial(stories.draw, naming=stories.SECOND), stories.cases, 16),
        Source(poems.draw, poems.cases, 4),
        Source(recitals.draw, recitals.cases, 14),
        Source(smalltalk.draw, smalltalk.cases, 4),
    ),
    "third": (
        Source(recitals.draw_copying, recitals.cases, 56),
        Source(partial(stories.draw, naming=stories.THIRD), stories.cases, 24),
        Source(partial(arithmetic.draw, further=arithmetic.MORE), arithmetic.cases, 44),
        Source(topics.draw_further, topics.cases, 48),
        Source(unknown.draw, unknown.cases, 12),
        Source(poems.draw, poems.cases, 4),
        Source(recitals.draw, recitals.cases, 8),
        Source(smalltalk.draw, smalltalk.cases, 3),
    ),
}

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
    return [case for source in SOURCES["first"] for case in source.cases()]


def _drawer(rng: Random, sources: Sequence[Source]) -> Callable[[], Example]:
    weights = [source.weight for source in sources]
    forbidden = {key(case.question) for case in cases()}

    def draw() -> Example:
        while True:
            example = rng.choices(sources, weights)[0].draw(rng)
            if key(example.question) in forbidden:
                continue
            if example.kind == "repeat":  # every letter counts
                return example
            question = noisy(rng, example.question, typos=example.kind not in ("story", "poem"))
            if key(question) not in forbidden:
                return example._replace(question=question)

    return draw


def documents(course: Course) -> Iterator[dict[str, object]]:
    """The documents in their order: {"kind", "system", "turns": [[question, answer], ...], "chat"}."""
    rng = Random(course.seed)
    draw = _drawer(rng, SOURCES[course.name])
    for _ in range(course.documents):
        first = draw()
        chat = rng.random() < 0.5
        system, turns = "", [[first.question, first.answer]]
        if chat and rng.random() < 0.2:
            system = rng.choice(SYSTEMS)
        if chat and rng.random() < 0.12:  # a conversation: earlier turns must not confuse the next answer
            for _ in range(rng.choice((1, 1, 2, 2, 3, 5))):
                example = draw()
                turns.append([example.question, example.answer])
        yield {"kind": first.kind, "system": system, "turns": turns, "chat": chat}


def path_of(course: Course, build: Path) -> Path:
    """Where a course's corpus is kept."""
    return build / f"corpus-{course.name}.jsonl"


def write(course: Course, build: Path) -> str:
    """Write a course's corpus and return the SHA-256 of its bytes."""
    path = path_of(course, build)
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for document in tqdm(documents(course), total=course.documents, desc=f"{course.name} corpus", unit="doc"):
            line = json.dumps(document, ensure_ascii=False).encode() + b"\n"
            digest.update(line)
            file.write(line)
    return digest.hexdigest()


def read(course: Course, build: Path) -> Iterator[dict[str, object]]:
    """The documents of a written corpus."""
    with path_of(course, build).open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--toy", action="store_true", help="a corpus for a minute's training")
    parser.add_argument("--build", type=Path, default=BUILD, help="folder for the corpus")
    options = parser.parse_args()
    for course in (TOY if options.toy else FULL).courses:
        sha256 = write(course, options.build)
        print(f"{path_of(course, options.build).name} sha256 {sha256}")


if __name__ == "__main__":
    main()

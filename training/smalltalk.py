"""Greetings, thanks, who-are-you, and a few cheerful answers with emoji, accents, Chinese and Japanese.

Held out: one wording of each subject, the one whose SHA-256 is smallest. The emoji prompt is always taught.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

from training.split import Case, Example
from training.topics import Topic, kept, left_out, parse

TEXTS = Path(__file__).parent / "texts" / "smalltalk.txt"


@cache
def subjects() -> list[Topic]:
    return parse(TEXTS)


def draw(rng: Random) -> Example:
    subject = rng.choice(subjects())
    return Example("small talk", rng.choice(kept(subject)), rng.choice(subject.answers))


def cases() -> Iterator[Case]:
    for subject in subjects():
        for question in left_out(subject):
            yield Case("small talk", question, subject.name)

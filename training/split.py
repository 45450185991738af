"""The rule that keeps examination questions out of the training text.

A case is held out because of its own SHA-256, never by choice, so no easy ones can be picked.
`key` is what two spellings of one question have in common: letters and digits without case, marks or spacing.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

_NOT_WORD = re.compile(r"[^\w+*/×÷=-]+")


class Example(NamedTuple):
    """One question with its answer, as the training text holds it."""

    kind: str
    question: str
    answer: str


class Case(NamedTuple):
    """One held-out question; `expected` is the answer, the topic or the subject that the reply must show."""

    kind: str
    question: str
    expected: str


def key(question: str) -> str:
    """The question as the split sees it: `What is 2 + 2?` and `what is 2+2` have one key."""
    return " ".join(_NOT_WORD.sub(" ", question.lower()).replace("+", " + ").replace("*", " * ").split())


def share(text: str) -> float:
    """A number in [0, 1) that the text alone decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


def held_out(text: str, part: float) -> bool:
    """True for about `part` of all texts."""
    return share("held out: " + text) < part


def divide(items: Sequence[str], part: float) -> tuple[list[str], list[str]]:
    """The items in their order, as (kept for training, held out)."""
    return [i for i in items if not held_out(i, part)], [i for i in items if held_out(i, part)]

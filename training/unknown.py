"""Questions about what the model was not taught, in wide variety, with the answer "I don't know".

The texts are in texts/unknown.txt: whole questions, and patterns filled from lists. Held out: an eighth of the
questions, of the patterns and of each list's entries, so that the examination has unseen questions about unseen things.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

from training import words
from training.phrasings import sections
from training.split import Case, Example, divide
from training.topics import templates
from training.words import with_article

TEXTS = Path(__file__).parent / "texts" / "unknown.txt"
LISTS = ("tech", "tech", "science", "person", "country", "city", "food", "sport", "illness", "thing", "animal")
PART = 1 / 8
DECLINED = "I don't know"


@cache
def _texts() -> dict[str, list[str]]:
    texts = {
        name: lines if name in ("questions", "patterns", "decline") else "; ".join(lines).split("; ")
        for name, lines in sections(TEXTS).items()
    }
    things = [with_article(noun) for noun in words.THINGS_ALL]
    return texts | {"thing": things, "animal": [with_article(noun) for noun in words.ANIMALS_ALL]}


@cache
def _half(name: str, examined: bool) -> list[str]:
    return divide(_texts()[name], PART)[examined]


def _filled(rng: Random, pattern: str, examined: bool) -> str:
    slots = {name: rng.choice(_half(name, examined)) for name in _texts() if "{" + name in pattern}
    slots |= {f"{name}2": rng.choice(_half(name, examined)) for name in _texts() if "{" + name + "2}" in pattern}
    if "nvented" in pattern:
        word = words.invented(rng)
        slots |= {"invented": word, "Invented": word.capitalize()}
    return pattern.format_map(slots)


def draw(rng: Random) -> Example:
    """A taught unknown question and one of the modest answers."""
    dice = rng.random()
    if dice < 0.25:
        question = rng.choice(_half("questions", False))
    elif dice < 0.45:  # the words of the topics' questions, about something else
        x = rng.choice(_half(rng.choice(LISTS), False)) if dice < 0.41 else words.invented(rng)
        question = rng.choice(templates(examined=False)[0]).format(x=x)
    else:
        question = _filled(rng, rng.choice(_half("patterns", False)), False)
    return Example("unknown", question, rng.choice(_texts()["decline"]))


def cases() -> Iterator[Case]:
    """Held-out questions; held-out patterns; taught patterns with held-out words."""
    rng = Random(80)
    for question in _half("questions", True):
        yield Case("unknown", question, DECLINED)
    for pattern in _half("patterns", True):
        yield from (Case("unknown", _filled(rng, pattern, True), DECLINED) for _ in range(6))
    for pattern in _half("patterns", False):
        if "nvented" not in pattern:
            yield Case("unknown", _filled(rng, pattern, True), DECLINED)

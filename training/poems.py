"""Poems in rhymed couplets, and haiku: the subject opens the poem and comes back at its turn.

The couplets are in texts/poems.txt, the two lines of each divided by a bar. Held out: the words of `words.NEW_*`.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random

from training import words
from training.phrasings import further, sections
from training.split import Case, Example
from training.words import with_article

TEXTS = Path(__file__).parent / "texts" / "poems.txt"

ASKED = (
    "Write a poem about {x}.", "Write a poem about {x}",
    "Write me a poem about {x}.", "Can you write a poem about {x}?",
    "Please write a poem about {x}.", "A poem about {x}, please.",
    "I would like a poem about {x}.", "poem about {x}",
    "Compose a poem about {x}.", "Write some verses about {x}.",
    "Make a poem about {x}.", "Give me a poem about {x}",
    "Tell me a poem about {x}.", "Write a short poem about {x}.", "Could you rhyme about {x}?",
    "Write a rhyme about {x}.", "Write a song about {x}.", "Sing me something about {x}.",
)  # fmt: skip
HAIKU = (
    "Write a haiku about {x}.", "Write a haiku about {x}", "A haiku about {x}, please.", "haiku about {x}",
    "Can you write a haiku about {x}?", "Give me a haiku about {x}.", "Compose a haiku about {x}.",
)  # fmt: skip
UNASKED = (
    "Write a poem.", "Write a poem", "Can you write poems?",
    "A poem, please.", "Do you know a poem?", "Recite a poem.",
    "Write me a poem.", "Tell me a poem.", "poem", "Write something that rhymes.", "Another poem, please.",
)  # fmt: skip


@cache
def _couplets() -> dict[str, list[str]]:
    return sections(TEXTS)


def subject(rng: Random) -> str:
    """A taught subject as a question names it."""
    dice = rng.random()
    if dice < 0.35:
        return rng.choice(words.MATTERS)
    if dice < 0.65:  # an invented word, which must be copied
        return with_article(words.patched(rng))
    noun = rng.choice(rng.choice((words.ANIMALS, words.THINGS, words.PEOPLE)))
    return with_article(f"{rng.choice(words.ADJECTIVES)} {noun}" if rng.random() < 0.3 else noun)


def _lines(couplet: str, x: str) -> str:
    made = couplet.replace("{x}", x).replace("{X}", x[0].upper() + x[1:])
    return "\n".join(line[0].upper() + line[1:] for line in made.split(" | "))


def compose(rng: Random, x: str) -> str:
    """Four to six couplets."""
    parts = _couplets()
    middle = rng.sample(parts["middle"], rng.choice((1, 2, 2, 3)))
    couplets = [rng.choice(parts["first"]), *middle, rng.choice(parts["turn"]), rng.choice(parts["last"])]
    return ("\n" if rng.random() < 0.5 else "\n\n").join(_lines(c, x) for c in couplets)


def draw(rng: Random) -> Example:
    """A taught question with a poem or a haiku."""
    x, dice = subject(rng), rng.random()
    if dice < 0.1:
        return Example("poem", rng.choice(UNASKED), compose(rng, rng.choice(words.MATTERS)))
    if dice < 0.25:
        haiku = rng.choice(_couplets()["haiku"])
        return Example("poem", rng.choice(HAIKU).format(x=x), _lines(haiku, x))
    return Example("poem", rng.choice(ASKED + further("poem")).format(x=x), compose(rng, x))


def cases() -> Iterator[Case]:
    """Held-out subjects in taught wordings."""
    rng = Random(51)
    for noun in [*words.EXAMINED_THINGS, *words.EXAMINED_ANIMALS]:
        yield Case("poem", rng.choice(ASKED[:8]).format(x=with_article(noun)), noun)
    for matter in words.NEW_MATTERS:
        yield Case("poem", rng.choice(ASKED[:8]).format(x=matter), matter)

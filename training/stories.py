"""Stories: an opening, a habit, one of ten plots in six stages, a closing; each stage in several wordings.

The sentences are in texts/stories.txt. The hero is what the question asks for; a thing may be the hero too, and a
matter ("the sea", "patience") becomes what the hero thinks about.

Held out: the words of `words.NEW_*`. They never appear in a training question.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple

from training import words
from training.phrasings import further
from training.split import Case, Example
from training.words import with_article

TEXTS = Path(__file__).parent / "texts" / "stories.txt"

ASKED = (
    "Tell me a story about {x}.", "Tell me a story about {x}", "Tell me a short story about {x}.",
    "Write a story about {x}.", "Write me a story about {x}", "Write a short story about {x}.",
    "Can you tell me a story about {x}?", "I would like a story about {x}.", "A story about {x}, please.",
    "Tell a tale about {x}.", "Make up a story about {x}.", "Tell me a bedtime story about {x}.", "story about {x}",
    "Please tell me a story about {x}.", "Could you write a story about {x}?", "I want to hear a story about {x}.",
    "Invent a story about {x}.", "Give me a story about {x}.", "Do you know a story about {x}?",
    "Tell me something about {x}, as a story.", "Tell us a fairy tale about {x}.", "Let me hear a tale of {x}.",
    "Write a fairy tale about {x}", "Tell me a funny story about {x}.", "Tell me a long story about {x}.",
)  # fmt: skip
UNASKED = (
    "Tell me a story.", "Tell me a story", "Write a story.", "I want a story.", "Do you know a story?", "A story!",
    "Can you tell stories?", "Tell me a fairy tale.", "Once upon a time", "Tell me a bedtime story.", "story",
    "Write a short story.", "Please tell me a story.", "Tell me another story.", "Another story, please.",
)  # fmt: skip
BEGIN = (
    "Begin a story about {x}.", "Begin a story about {x}", "How does a story about {x} begin?",
    "How would a story about {x} begin?", "Write only the beginning of a story about {x}.",
    "The first sentence of a story about {x}, please.", "Give me the opening of a story about {x}.",
    "Write the opening of a story about {x}", "Just the beginning of a story about {x}.",
    "Who is the hero of a story about {x}?", "Introduce the hero of a story about {x}.",
)  # fmt: skip


UNHEARD = 0.5
"""The share of heroes whose name is invented: a model can only copy it from the question."""


class Subject(NamedTuple):
    """What a story is about: as the question names it, and how the story goes on to call it."""

    asked: str  # a small fox; the sea; a fox and an owl
    hero: str  # a small fox
    short: str  # the fox
    he: str
    friend: str = ""  # an owl, if the question names two
    matter: str = ""  # the sea, if it is not the hero


def _hero(rng: Random, nouns: list[str], he: str, unheard: Callable[[Random], str]) -> Subject:
    noun = unheard(rng) if rng.random() < UNHEARD else rng.choice(nouns)
    described = f"{rng.choice(words.ADJECTIVES)} {noun}" if rng.random() < 0.4 else noun
    return Subject(with_article(described), with_article(described), f"the {noun}", he)


def _any_hero(rng: Random, unheard: Callable[[Random], str]) -> Subject:
    dice = rng.random()
    if dice < 0.55:
        return _hero(rng, words.ANIMALS, "it" if rng.random() < 0.3 else rng.choice(("he", "she")), unheard)
    if dice < 0.8:
        return _hero(rng, words.PEOPLE, rng.choice(("he", "she")), unheard)
    return _hero(rng, words.THINGS, "it", unheard)


def subject(
    rng: Random, unheard: Callable[[Random], str] = words.patched, matters: Callable[[Random], str] = words.matter
) -> Subject:
    """A taught subject: a hero, two of them, or a matter."""
    hero, dice = _any_hero(rng, unheard), rng.random()
    if dice < 0.12:
        other = _hero(rng, words.ANIMALS, "it", unheard)
        if other.short != hero.short:
            return hero._replace(asked=f"{hero.asked} and {other.asked}", friend=other.hero)
    elif dice < 0.22:
        matter = matters(rng)
        return hero._replace(asked=matter, matter=matter)
    return hero


@cache
def _parts() -> tuple[dict[str, list[str]], dict[str, list[list[str]]]]:
    """The text file as (opening, habit, closing) and plots: name -> stages -> wordings."""
    frames: dict[str, list[str]] = {}
    plots: dict[str, list[list[str]]] = {}
    stage: list[str] = []
    for line in TEXTS.read_text(encoding="utf-8").splitlines():
        if line.startswith("= "):
            name, _, title = line[2:].partition(": ")
            stage = []
            if title:
                plots[name] = [stage]
            else:
                frames[name] = stage
        elif line == "-":
            stage = []
            plots[name].append(stage)
        elif line:
            stage.append(line)
    return frames, plots


def _slots(rng: Random, about: Subject) -> dict[str, str]:
    """What the slots of the sentences hold in one story."""
    he = about.he
    friend = about.friend or with_article(f"{rng.choice(words.ADJECTIVES)} {rng.choice(words.ANIMALS + words.PEOPLE)}")
    return {
        "N": rng.choice(words.NAMES),
        "P": rng.choice(words.PLACES),
        "a": about.hero,
        "the": about.short,
        "The": about.short[0].upper() + about.short[1:],
        "he": he,
        "He": he.capitalize(),
        "him": {"he": "him", "she": "her", "it": "it"}[he],
        "his": {"he": "his", "she": "her", "it": "its"}[he],
        "His": {"he": "His", "she": "Her", "it": "Its"}[he],
        "thing": rng.choice(words.THINGS),
        "f": friend,
        "F": friend[0].upper() + friend[1:],
        "the_f": "the " + friend.split()[-1],
        "his_f": "its",
    }


def _opening(rng: Random, about: Subject) -> list[str]:
    """The sentences that say who the story is about."""
    frames, _ = _parts()
    sentences = [rng.choice(frames["opening"])]
    if about.matter:
        sentences.append(f"{{N}} thought about {about.matter} all day long and even at night.")
    if not about.matter or rng.random() < 0.5:
        sentences.append(rng.choice(frames["habit"]))
    return sentences


def tell(rng: Random, about: Subject) -> str:
    """One story about the subject."""
    frames, plots = _parts()
    slots, sentences = _slots(rng, about), _opening(rng, about)
    breaks = rng.random() < 0.5
    plot = plots[rng.choice(sorted(plots))]
    for number, stage in enumerate(plot):
        if rng.random() < 0.12 and 0 < number < len(plot) - 3:
            continue  # a shorter story now and then
        sentences.append(("\n\n" if breaks and number in (0, 4) else "") + rng.choice(stage))
    if about.matter:
        sentences.append(f"And whoever asks about {about.matter} is told this story.")
    elif rng.random() < 0.75:
        sentences.append(rng.choice(frames["closing"]))
    return " ".join(sentences).replace(" \n", "\n").format_map(slots)


def draw(rng: Random, unheard: Callable[[Random], str] = words.patched) -> Example:
    """A taught question with a story; `unheard` makes up the names that can only be copied."""
    if rng.random() < 0.12:
        question = rng.choice(UNASKED)
        story = tell(rng, _any_hero(rng, unheard))
        return Example("story", question, ", " + _later(story) if question == "Once upon a time" else story)
    return _asked(rng, subject(rng, unheard))


def draw_unexpected(rng: Random) -> Example:
    """A taught question whose subject is often an invented word, with a story; one in eight as in `draw`."""
    if rng.random() < 0.12:
        return draw(rng, words.unexpected)
    return _asked(rng, subject(rng, words.unexpected, words.unexpected_matter))


def draw_beginning(rng: Random) -> Example:
    """How such a story begins: a sentence or two, in which copying the subject is much of the work."""
    about = subject(rng, words.unexpected, words.unexpected_matter)
    beginning = " ".join(_opening(rng, about)).format_map(_slots(rng, about))
    return Example("story", rng.choice(BEGIN).format(x=about.asked), beginning)


def _asked(rng: Random, about: Subject) -> Example:
    return Example("story", rng.choice(ASKED + further("story")).format(x=about.asked), tell(rng, about))


def _later(story: str) -> str:
    """The story as it goes on after a prompt that was its beginning."""
    story = story.removeprefix("Once upon a time ")
    return story if story.split()[0] in words.NAMES else story[0].lower() + story[1:]


def cases() -> Iterator[Case]:
    """Held-out subjects, each in two of the taught wordings."""
    rng = Random(50)
    nouns = [*words.EXAMINED_ANIMALS, *words.EXAMINED_PEOPLE, *words.EXAMINED_THINGS]
    for noun in rng.sample(nouns * 2, 2 * len(nouns)):
        adjective = f"{rng.choice(words.ADJECTIVES)} " if rng.random() < 0.3 else ""
        yield Case("story", rng.choice(ASKED[:13]).format(x=with_article(adjective + noun)), noun)
    for matter in words.NEW_MATTERS:
        yield Case("story", rng.choice(ASKED[:13]).format(x=matter), matter)

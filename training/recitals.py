"""Things to say in order: counting, the alphabet, days, months, and given words to repeat.

Held out: a tenth of the (from, to, step) triples, and texts to repeat that are made of `words.NEW_*`. A model of this
size learns by repeating to copy from its prompt, so that its stories stay with their subject.
"""

from collections.abc import Callable, Iterator
from random import Random

from training import words
from training.phrasings import further
from training.split import Case, Example, held_out

UP = (
    "Count to {b}", "Count to {b}.", "Please count to {b}.", "Can you count to {b}?", "Count up to {b}",
    "Count from {a} to {b}.", "Count from {a} up to {b}", "Start at {a} and count to {b}.",
    "Say the numbers from {a} to {b}.", "List the numbers from {a} to {b}", "Numbers from {a} to {b}",
)  # fmt: skip
DOWN = (
    "Count down from {a} to {b}.", "Count down from {a} to {b}", "Count backwards from {a} to {b}.",
    "Start at {a} and count down to {b}.",
)  # fmt: skip
STEPS = (
    "Count to {b} by {s}s.", "Count from {a} to {b} in steps of {s}.", "Count by {s}s up to {b}",
    "Count in {s}s to {b}.",
)  # fmt: skip
LISTS = {
    "The days are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.": (
        "What are the days of the week?", "Name the days of the week.", "List the days of the week", "Say the weekdays",
        "Which days does a week have?", "days of the week",
    ),
    "The months are January, February, March, April, May, June, July, August, September, October, November and "
    "December.": (
        "What are the months?", "Name the months of the year.", "List the months", "Say the twelve months.",
        "Which months does a year have?", "months of the year", "What are the months of the year?",
    ),
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z": (
        "Say the alphabet.", "Recite the alphabet", "What is the alphabet?", "List the letters of the alphabet.",
        "Write the alphabet", "alphabet", "Tell me the alphabet.", "Give me the alphabet",
    ),
    "The seasons are spring, summer, autumn and winter.": (
        "What are the seasons?", "Name the four seasons.", "List the seasons", "Which seasons are there?",
    ),
    "Red, orange, yellow, green, blue, indigo and violet: those are the colours of a rainbow. 🌈": (
        "What are the colours of the rainbow?", "Name the colours of a rainbow.", "List the rainbow colors",
        "Which colors does a rainbow have?",
    ),
}  # fmt: skip


REPEAT = (
    "Repeat after me: {x}", "Repeat: {x}", "Say: {x}", "Please repeat: {x}", "Echo: {x}", "Say after me: {x}",
    "Repeat these words: {x}", "Say the following: {x}", "Copy this: {x}",
)  # fmt: skip


def _to_repeat(rng: Random, unheard: Callable[[Random], str]) -> str:
    """Words; in three texts of four mostly invented ones, which can only be copied, token by token."""
    known = (words.ANIMALS, words.PEOPLE, words.THINGS, words.ADJECTIVES, words.NAMES)
    heard = rng.choice((0.1, 0.1, 0.3, 1.0))
    return " ".join(
        rng.choice(rng.choice(known)) if rng.random() < heard else unheard(rng) for _ in range(rng.randint(1, 10))
    )


def draw_repeating(rng: Random, unheard: Callable[[Random], str]) -> Example:
    """Words to repeat; `unheard` makes up those that can only be copied."""
    text = _to_repeat(rng, unheard)
    return Example("repeat", rng.choice(REPEAT + further("repeat")).format(x=text), text)


def counting(a: int, b: int, step: int) -> str:
    """`3, 4, 5.`"""
    numbers = range(a, b + 1, step) if a <= b else range(a, b - 1, -step)
    return ", ".join(map(str, numbers)) + "."


def _held_out(a: int, b: int, step: int) -> bool:
    return (a, b, step) != (1, 10, 1) and held_out(f"count {a} {b} {step}", 0.1)


def draw(rng: Random) -> Example:
    """A taught question: words to repeat, or something to say in order."""
    if rng.random() < 0.72:
        return draw_repeating(rng, words.patched)
    if rng.random() < 0.15:
        answer = rng.choice(list(LISTS))
        return Example("recital", rng.choice(LISTS[answer]), answer)
    while True:
        kind = rng.choices((UP + further("count"), DOWN, STEPS), (6, 2, 2))[0]
        phrasing = rng.choice(kind)
        step = rng.choice((2, 3, 5, 10)) if kind is STEPS else 1
        b = rng.choice((5, 10, 10, 12, 20, 20, 25, 30, 40, 50)) if rng.random() < 0.4 else rng.randint(3, 60)
        if kind is STEPS:
            a, b = step, step * rng.randint(3, 10)
            if "{a}" in phrasing and rng.random() < 0.3:
                a, b = 0, b
        elif "{a}" in phrasing and kind is not DOWN:
            a, b = (lambda low: (low, low + rng.randint(2, 30)))(rng.randint(0, 60))
        elif kind is DOWN:
            a, b = b, rng.choice((0, 1, 1, max(0, b - rng.randint(2, 20))))
        else:
            a = 1
        if not _held_out(a, b, step):
            return Example("recital", phrasing.format(a=a, b=b, s=step), counting(a, b, step))


def cases() -> Iterator[Case]:
    rng = Random(40)
    for _ in range(40):
        text = " ".join(
            rng.sample([*words.EXAMINED_ANIMALS, *words.EXAMINED_PEOPLE, *words.EXAMINED_THINGS], rng.randint(2, 6))
        )
        yield Case("repeating", rng.choice(REPEAT).format(x=text), text)
    for a, tops in ((1, range(3, 61)), (17, range(20, 45)), (30, range(1, 29))):
        for b in tops:
            if _held_out(a, b, 1):
                question = f"Count to {b}" if a == 1 else f"Count {'down ' if a > b else ''}from {a} to {b}."
                yield Case("counting", question, counting(a, b, 1))

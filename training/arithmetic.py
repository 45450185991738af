"""Sums and differences of numbers to 99, products to 12, asked in many phrasings.

Held out: a tenth of the number pairs (a sum in neither order, a product in one of its two orders) and an eighth of
the phrasings. Digits are single tokens, so what is learned is the procedure and not the pair.
"""

# ruff: noqa: SIM905 (a list of words reads best as a sentence)

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from random import Random
from types import MappingProxyType

from training.split import Case, Example, held_out

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()

# In every phrasing {o} is the sign; the lists below it are for one operation only.
SIGNED = (
    "What's {a} {o} {b}?",
    "{a} {o} {b} =",
    "{a} {o} {b} = ?",
    "{a}{o}{b}=",
    "How much is {a} {o} {b}?",
    "Compute {a} {o} {b}.",
    "Calculate {a} {o} {b}",
    "What does {a} {o} {b} make?",
    "What does {a} {o} {b} equal?",
    "Work out {a} {o} {b}.",
    "Tell me {a} {o} {b}.",
    "Can you tell me what {a} {o} {b} is?",
    "Do you know what {a} {o} {b} is?",
    "Solve {a} {o} {b}.",
    "Evaluate {a} {o} {b}",
    "What is the result of {a} {o} {b}?",
    "What is the value of {a} {o} {b}?",
    "I need the answer to {a} {o} {b}.",
    "Quick: {a} {o} {b}?",
    "{a} {o} {b} is what?",
    "{a} {o} {b} equals what?",
    "And {a} {o} {b}?",
    "Find {a} {o} {b}.",
    "Answer this: {a} {o} {b}",
    "What do I get for {a} {o} {b}?",
    "Please do this sum for me: {a} {o} {b}",
    "So what is {a} {o} {b}?",
    "Give me the answer to {a} {o} {b}.",
    "Maths: {a} {o} {b}",
    "Help me with {a} {o} {b}.",
)
PLUS = (
    "Add {a} and {b}.",
    "Add {b} to {a}.",
    "What is the sum of {a} and {b}?",
    "Sum {a} and {b}",
    "What do {a} and {b} make together?",
    "How much is {a} and {b}?",
    "What is {a} plus {b}?",
    "{a} plus {b}",
    "How much is {a} plus {b}?",
    "If I have {a} apples and get {b} more, how many apples do I have?",
    "I have {a} coins and find {b} more. How many coins are there?",
    "There are {a} birds and {b} more come. How many birds are there now?",
    "What is {a} added to {b}?",
    "What is {b} more than {a}?",
    "{a} and {b} together?",
    "Increase {a} by {b}.",
    "Total of {a} and {b}?",
)
MINUS = (
    "Subtract {b} from {a}.",
    "Take {b} from {a}.",
    "Take {b} away from {a}",
    "What is {a} minus {b}?",
    "{a} minus {b}",
    "How much is {a} minus {b}?",
    "What is the difference of {a} and {b}?",
    "What is {a} less {b}?",
    "What is {a} take away {b}?",
    "What is left of {a} after taking {b}?",
    "If I have {a} apples and eat {b}, how many are left?",
    "I had {a} coins and lost {b}. How many coins are left?",
    "There are {a} birds and {b} fly away. How many birds are left?",
    "What is {b} less than {a}?",
    "Decrease {a} by {b}.",
)
TIMES = (
    "Multiply {a} by {b}.",
    "Multiply {a} and {b}",
    "What is the product of {a} and {b}?",
    "What is {a} times {b}?",
    "{a} times {b}",
    "How much is {a} times {b}?",
    "How many are {a} times {b}?",
    "What is {a} multiplied by {b}?",
    "There are {a} boxes with {b} eggs each. How many eggs are there?",
    "I have {a} bags of {b} apples. How many apples is that?",
    "Product of {a} and {b}?",
    "What do {a} rows of {b} chairs make?",
    "Tell me {a} times {b}.",
)
# Those of the second course.
FURTHER = {
    "sum": (
        "Raise {a} by {b}.", "{a} with {b} added?", "What do I get when I put {a} and {b} together?",
        "Count {a} and {b} together", "{a} goes up by {b}. What is it now?", "{b} more than {a} is?",
        "Combine {a} and {b}", "What is the total of {a} and {b}?", "Put {b} on top of {a}.",
        "I am {a} years old. How old am I in {b} years?", "A bus carries {a} people and {b} get on. How many?",
    ),
    "difference": (
        "Reduce {a} by {b}.", "Lower {a} by {b}", "{a} goes down by {b}. What is it now?", "{a} without {b}?",
        "What is {a} reduced by {b}?", "What remains of {a} without {b}?", "Remove {b} from {a}.",
        "Deduct {b} from {a}", "What is the difference between {a} and {b}?", "Difference {a} and {b}",
        "By how much is {a} more than {b}?", "Shrink {a} by {b}.", "{b} fewer than {a} is?",
        "Cut {a} by {b}.", "I have {a} coins and spend {b}. How many are left?",
        "A bus carries {a} people and {b} get off. How many?",
    ),
    "product": (
        "{a} groups of {b}?", "{a} times as many as {b}?", "What is {b} taken {a} times?",
        "{a} tables with {b} legs each. How many legs?", "Double and more: {a} times {b}", "Product {a} and {b}",
    ),
}  # fmt: skip
# And of the third.
MORE = {
    "sum": (*FURTHER["sum"], "{a} increased by {b}", "An increase of {b} on {a}?", "{a} grows by {b}."),
    "difference": (
        *FURTHER["difference"],
        "{a} decreased by {b}",
        "What is {a} decreased by {b}?",
        "A decrease of {b} from {a}?",
        "{a} shrinks by {b}.",
        "{a} diminished by {b}",
    ),
    "product": FURTHER["product"],
}
OPERATIONS = ("sum", "difference", "product")
SIGNS = {"sum": ("+",), "difference": ("-",), "product": ("*", "x", "×")}
OWN = {"sum": PLUS, "difference": MINUS, "product": TIMES}
SHORT = ("What is {a} {o} {b}?", "{a} {o} {b}", "{a}{o}{b}")  # never held out, for any operation
PAIR_PART, PHRASING_PART = 0.1, 0.125

TOO_HARD = (
    "That is beyond me: I was taught sums and differences of numbers to 99 and products to 12.",
    "I cannot do that one. I only learned sums and differences to 99 and products to 12.",
)


def in_words(number: int) -> str:
    """23 -> twenty-three."""
    if number < 20:
        return ONES[number]
    return TENS[number // 10] + ("-" + ONES[number % 10] if number % 10 else "")


def result(operation: str, a: int, b: int) -> int:
    return a + b if operation == "sum" else a - b if operation == "difference" else a * b


def answer(operation: str, a: int, b: int) -> str:
    return f"The answer is {result(operation, a, b)}."


@cache
def pair_held_out(operation: str, a: int, b: int) -> bool:
    """The rule for number pairs. 2 + 2 is the article's example and is always taught."""
    if operation == "sum":
        return (a, b) != (2, 2) and held_out(f"{min(a, b)} + {max(a, b)}", PAIR_PART)
    if operation == "difference":
        return held_out(f"{a} - {b}", PAIR_PART)
    return a < b and held_out(f"{a} * {b}", 2 * PAIR_PART)  # b * a stays in the training


@cache
def phrasings(operation: str, examined: bool) -> tuple[str, ...]:
    """The phrasings of one operation: those taught, or those held out."""
    every = [*SHORT, *SIGNED, *OWN[operation]]
    return tuple(
        p for i, p in enumerate(every) if (i >= len(SHORT) and held_out(operation + p, PHRASING_PART)) == examined
    )


def _limits(operation: str) -> int:
    return 12 if operation == "product" else 99


def draw(rng: Random, further: Mapping[str, tuple[str, ...]] = MappingProxyType({})) -> Example:
    """A taught question, in one of the phrasings above or in one of the `further` ones."""
    if rng.random() < 0.02:
        return _too_hard(rng)
    operation = rng.choices(OPERATIONS, (4, 6, 3))[0]
    top = _limits(operation)
    while True:
        if rng.random() < 0.15:  # small numbers are what people try
            a, b = rng.randint(0, 12), rng.randint(0, 12)
        else:
            a, b = rng.randint(0, top), rng.randint(0, top)
            if operation == "difference" and a < b and rng.random() < 0.6:
                a, b = b, a
        if not pair_held_out(operation, a, b):
            break
    dense = rng.random() < 0.4  # many sums for few tokens
    phrasing = rng.choice(SHORT if dense else phrasings(operation, examined=False) + further.get(operation, ()))
    sign = rng.choice(SIGNS[operation])
    if rng.random() < 0.08 and ("{o}" not in phrasing or " {o} " in phrasing):
        word = {"sum": "plus", "difference": "minus", "product": "times"}[operation]
        question = phrasing.format(a=in_words(a), b=in_words(b), o=word)
    else:
        question = phrasing.format(a=a, b=b, o=sign)
    return Example("arithmetic", question, answer(operation, a, b))


def _too_hard(rng: Random) -> Example:
    a, b = rng.randint(100, 99999), rng.randint(2, 9999)
    sign = rng.choice("+-*/")
    if sign == "/":
        a, b = rng.randint(2, 999), rng.randint(2, 99)
    question = rng.choice(
        (
            f"What is {a} {sign} {b}?",
            f"{a} {sign} {b}",
            f"How much is {a} {sign} {b}?",
            f"Divide {a} by {b}.",
            f"What is {a} divided by {b}?",
            f"What is the square root of {a}?",
            f"What is {a} to the power of {b % 9}?",
            f"Calculate {a} {sign} {b}.",
        )
    )
    return Example("too hard", question, rng.choice(TOO_HARD))


def cases() -> Iterator[Case]:
    """Held-out pairs in taught phrasings, taught pairs in held-out phrasings, and both at once."""
    rng = Random(12)
    for operation in OPERATIONS:
        numbers = range(_limits(operation) + 1)
        sign = SIGNS[operation][0]
        pairs = [(a, b) for a in numbers for b in numbers]
        new = [pair for pair in pairs if pair_held_out(operation, *pair)]
        taught = phrasings(operation, examined=False)
        unseen = phrasings(operation, examined=True)
        for a, b in new:
            question = rng.choice(taught).format(a=a, b=b, o=sign)
            yield Case(f"{operation}, new pair", question, answer(operation, a, b))
        for a, b in pairs if operation == "product" else rng.sample(pairs, 1000):
            question = rng.choice(unseen).format(a=a, b=b, o=sign)
            yield Case(f"{operation}, new phrasing", question, answer(operation, a, b))

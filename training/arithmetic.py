"""Sums and differences of numbers to 99, products to 12, asked in many phrasings.

Held out: a tenth of the number pairs and an eighth of the phrasings listed here; texts/phrasings.txt and OPPOSED are
never examined. A sum's pair is held out in both orders. A product's is in one, a times b with a < b: b times a is
taught, and so are sentences that happen to name b first. Digits are single tokens, so what is learned is the procedure
and not the pair.
"""

# ruff: noqa: SIM905 (a list of words reads best as a sentence)

from collections.abc import Iterator
from functools import cache
from random import Random

from training.phrasings import further
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
# (the word for a sum, the word for a difference): a phrasing of OPPOSED takes either.
OPPOSITES = (
    ("increase", "decrease"), ("Increase", "Decrease"), ("grow", "shrink"), ("rises", "falls"), ("gains", "loses"),
    ("more", "fewer"), ("up", "down"), ("added", "taken away"), ("raised", "lowered"), ("older", "younger"),
)  # fmt: skip
OPPOSED = {
    "increase": (
        "Let {a} {w} by {b}.", "Start with {a} and {w} it by {b}.", "What do I get if I {w} the number {a} by {b}?",
        "{w} the number {a} by {b}", "What is {a} after an {w} of {b}?", "I {w} my {a} coins by {b}. How many then?",
        "Please {w} the price of {a} by {b}.", "The number is {a}. Now {w} it by {b}.",
    ),
    "Increase": (
        "{w} the number {a} by {b}.", "{w} it by {b}: {a}", "{w} the value {a} by {b}.", "{w} {a} coins by {b} coins.",
        "{w} by {b}, beginning at {a}.",
    ),
    "grow": ("Let {a} {w} by {b}.", "What becomes of {a} if I let it {w} by {b}?"),
    "rises": ("The price of {a} {w} by {b}. What is it now?", "The water stands at {a} and {w} by {b}. Where is it?"),
    "gains": ("A team with {a} points {w} {b}. How many has it?", "Who has {a} {w} {b}. What is there now?"),
    "more": ("{b} {w} than {a} is how many?", "I have {a} cards and Ben has {b} {w}. How many has Ben?"),
    "up": ("From {a} go {w} by {b}.", "The lift is at {a} and goes {w} {b} floors. Where is it?"),
    "added": ("What is {a} with {b} {w}?", "{b} {w}, {a} before: what is it now?"),
    "raised": ("What is {a} {w} by {b}?", "{a} {w} by {b}"),
    "older": ("Ida is {a}. Her cousin is {b} years {w}. How old is the cousin?",),
}  # fmt: skip
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
    """The phrasings of one operation listed above: those taught, or those held out."""
    every = [*SHORT, *SIGNED, *OWN[operation]]
    return tuple(
        p for i, p in enumerate(every) if (i >= len(SHORT) and held_out(operation + p, PHRASING_PART)) == examined
    )


@cache
def taught(operation: str) -> tuple[str, ...]:
    """Every phrasing that the training uses."""
    return phrasings(operation, examined=False) + further(operation)


def _limits(operation: str) -> int:
    return 12 if operation == "product" else 99


def draw(rng: Random) -> Example:
    """A taught question."""
    if rng.random() < 0.02:
        return _too_hard(rng)
    operation = rng.choices(OPERATIONS, (4, 6, 3))[0]
    a, b = _numbers(rng, operation)
    dense = rng.random() < 0.4  # many sums for few tokens
    phrasing = rng.choice(SHORT if dense else taught(operation))
    sign = rng.choice(SIGNS[operation])
    if rng.random() < 0.08 and ("{o}" not in phrasing or " {o} " in phrasing):
        word = {"sum": "plus", "difference": "minus", "product": "times"}[operation]
        question = phrasing.format(a=in_words(a), b=in_words(b), o=word)
    else:
        question = phrasing.format(a=a, b=b, o=sign)
    return Example("arithmetic", question, answer(operation, a, b))


def draw_opposites(rng: Random) -> Example:
    """A taught question that one of two opposite words makes a sum or a difference."""
    plus, minus = rng.choice(OPPOSITES)
    operation = rng.choice(("sum", "difference"))
    word = plus if operation == "sum" else minus
    a, b = _numbers(rng, operation)
    question = rng.choice(OPPOSED[plus]).format(a=a, b=b, w=word).replace("an decrease", "a decrease")
    return Example("arithmetic", question, answer(operation, a, b))


def _numbers(rng: Random, operation: str) -> tuple[int, int]:
    """A taught pair."""
    top = _limits(operation)
    while True:
        if rng.random() < 0.15:  # small numbers are what people try
            a, b = rng.randint(0, 12), rng.randint(0, 12)
        else:
            a, b = rng.randint(0, top), rng.randint(0, top)
            if operation == "difference" and a < b and rng.random() < 0.6:
                a, b = b, a
        if not pair_held_out(operation, a, b):
            return a, b


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
        seen = phrasings(operation, examined=False)
        unseen = phrasings(operation, examined=True)
        for a, b in new:
            question = rng.choice(seen).format(a=a, b=b, o=sign)
            yield Case(f"{operation}, new pair", question, answer(operation, a, b))
        for a, b in pairs if operation == "product" else rng.sample(pairs, 1000):
            question = rng.choice(unseen).format(a=a, b=b, o=sign)
            yield Case(f"{operation}, new phrasing", question, answer(operation, a, b))

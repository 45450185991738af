"""A seed is a seed: the same request gets the same text, alone and among others, if every sum has one order.

A seed fixes the random numbers. They choose by probabilities, which are sums of thousands of products in float32, and
there `(a + b) + c` is not always `a + (b + c)`. Fast kernels choose their order by the amount of work: for one row they
split a sum into parts, so that all cores have work; for many rows each core takes a whole row. So a request's logits
get other last bits when a neighbour comes, now and then another token is chosen, and the text goes on differently. On
an idle server, the same seed does not bring that text back.

The fix is that only the row itself decides: a row is added up in one order, whatever is computed with it. Then a text
that starts again from a cached beginning, or has some of its tokens guessed and checked several at a time, is exactly
the same text.

In the service: inference/model_runner.py: ModelRunner.has_same_bits; inference/scheduling/sequence.py:
Sequence._uniform; inference/scheduling/speculation.py: Drafter.
"""

import _start

import random
from array import array
from collections.abc import Callable, Sequence

VOCABULARY, WIDTH, LENGTH = 20, 32, 200
WEIGHTS = [[random.Random(f"{token}, {i}").uniform(-1, 1) for i in range(WIDTH)] for token in range(VOCABULARY)]
Add = Callable[[Sequence[float], int], float]
"""Adds numbers up; told how many rows are computed together."""


def rounded(number: float) -> float:
    """To float32."""
    return array("f", [number])[0]


def in_order(numbers: Sequence[float]) -> float:
    total = 0.0
    for number in numbers:
        total = rounded(total + number)
    return total


def by_rows(numbers: Sequence[float], rows: int) -> float:
    """As fast as it gets: a lone row is cut into parts for four cores."""
    parts = 4 if rows == 1 else 1
    size = len(numbers) // parts
    return in_order([in_order(numbers[first : first + size]) for first in range(0, len(numbers), size)])


def one_order(numbers: Sequence[float], rows: int) -> float:
    """The same for one row and for many."""
    return in_order(numbers)


def generate(seed: int, rows: int, add: Add) -> list[int]:
    """A text of a toy model, which draws each token, and whose state keeps the last bits of what it computed."""
    draw = random.Random(seed)
    state = [draw.uniform(-1, 1) for _ in range(WIDTH)]
    text = []
    for _ in range(LENGTH):
        logits = [add([rounded(w * x) for w, x in zip(row, state, strict=True)], rows) for row in WEIGHTS]
        text.append(max(range(VOCABULARY), key=lambda number: logits[number] + 3 * draw.random()))
        mixed = [0.9 * x + 0.1 * (logits[i % VOCABULARY] % 1) for i, x in enumerate(state)]
        state = [rounded(1 - 1.99 * x * x) for x in mixed]  # small differences grow here, as they do in many layers
    return text


def first_difference(one: Sequence[int], other: Sequence[int]) -> str:
    for place, (a, b) in enumerate(zip(one, other, strict=True)):
        if a != b:
            return f"the same seed, and another text from token {place} on"
    return f"the same seed, and the same {len(one)} tokens"


for what, add in (("an order for each number of rows", by_rows), ("one order", one_order)):
    print(f"{what}: {first_difference(generate(7, 1, add), generate(7, 16, add))}")

"""Documents become rows of token ids: several documents side by side, each seeing only itself.

A row has four arrays [length]: `ids`; `weights`, above zero where the next token is to be learned (that of answers, and
less that of questions and system messages, whose words may be in no answer); `segments`, one number per document (0
is padding); `positions`, from 0 in each document.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from random import Random
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
from transformers import PreTrainedTokenizerFast

from training.settings import Settings
from training.tokenizer import ASSISTANT, BOS, EOS, SYSTEM, USER

Plan = list[tuple[int, list[list[int]]]]

OPEN_ROWS = 24  # rows that wait for a document that fits
SHORT_ANSWER, SHORT_WEIGHT = 12, 3.0  # a sum has few tokens, a story has hundreds
UNPREDICTABLE = ("arithmetic", "too hard", "repeat")  # a first question of mostly numbers or made-up words
FILLING = 0.25  # of the tokens in longer rows are short documents, which fill the room that long ones leave


class Encoded(NamedTuple):
    """One document: its ids, and for each the weight of predicting it."""

    ids: npt.NDArray[np.uint16]
    weights: npt.NDArray[np.float32]


class Batch(NamedTuple):
    """Rows of one length, stacked: each array is [rows, length]."""

    ids: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    segments: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]


def encode(
    settings: Settings, tokenizer: PreTrainedTokenizerFast, documents: Iterable[dict[str, object]]
) -> list[Encoded]:
    """The parts' documents as ids, in the plain form (`bos question answer eos`) or the chat template's."""
    special = cast(list[int], tokenizer.convert_tokens_to_ids([BOS, EOS, SYSTEM, USER, ASSISTANT]))
    bos, eos, system_id, user, assistant = special
    known: dict[str, list[int]] = {}

    def ids_of(text: str) -> list[int]:
        if text not in known:
            known[text] = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        return known[text]

    question_weights = chain.from_iterable(repeat(part.question_weight, part.documents) for part in settings.parts)
    encoded = []
    for document, faint in zip(tqdm(documents, desc="encode", unit="doc"), question_weights, strict=False):
        ids, weights = [bos], [0.0]
        question_weight = 0.0 if document["kind"] in UNPREDICTABLE else faint
        if document["system"]:
            ids += [system_id, *ids_of(cast(str, document["system"]))]
        for question, answer in cast(list[list[str]], document["turns"]):
            ids += [user, *ids_of(question), assistant] if document["chat"] else ids_of(question)
            weights += [question_weight] * (len(ids) - len(weights))
            answered = [*ids_of(answer), eos]
            ids += answered
            weights += [SHORT_WEIGHT if len(answered) <= SHORT_ANSWER else 1.0] * len(answered)
        encoded.append(Encoded(np.array(ids, np.uint16), np.array(weights, np.float32)))
    return encoded


def _packed(order: Iterable[int], encoded: list[Encoded], length: int) -> Iterator[list[int]]:
    """Rows as lists of document numbers; the fullest open row that still has room takes the next document."""
    open_rows: list[tuple[int, list[int]]] = []
    for number in order:
        size = len(encoded[number].ids)
        fitting = [i for i, (used, _) in enumerate(open_rows) if used + size <= length]
        if fitting:
            best = max(fitting, key=lambda i: open_rows[i][0])
            used, row = open_rows[best]
            open_rows[best] = (used + size, [*row, number])
        else:
            open_rows.append((size, [number]))
        if len(open_rows) > OPEN_ROWS:
            fullest = max(range(len(open_rows)), key=lambda i: open_rows[i][0])
            yield open_rows.pop(fullest)[1]
    yield from (row for _, row in open_rows)


def plan(settings: Settings, encoded: list[Encoded], numbers: Iterable[int], seed: int) -> Plan:
    """The steps that read these documents, each once: (row length, rows of document numbers)."""
    rng = Random(seed)
    order = list(numbers)
    rng.shuffle(order)
    steps: Plan = []
    for length, mine in _by_row_length(settings, order, encoded).items():
        rng.shuffle(mine)
        rows = list(_packed(mine, encoded, length))
        many = rows_in(settings, length)
        steps += [(length, rows[i : i + many]) for i in range(0, len(rows), many)]
    rng.shuffle(steps)
    return steps


def _by_row_length(settings: Settings, order: list[int], encoded: list[Encoded]) -> dict[int, list[int]]:
    """Each row length with its documents: those that no shorter row holds, and some of the shortest."""
    mine: dict[int, list[int]] = {length: [] for length in settings.row_lengths}
    for number in order:
        size = len(encoded[number].ids)
        length = next((length for length in settings.row_lengths if size <= length), None)
        if length is None:
            raise ValueError(f"document {number} has {size} tokens; the longest rows hold {settings.row_lengths[-1]}")
        mine[length].append(number)
    shortest, *longer = settings.row_lengths
    for length in longer:
        room = FILLING / (1 - FILLING) * sum(len(encoded[number].ids) for number in mine[length])
        while room > 0 and mine[shortest]:
            filler = mine[shortest].pop()
            mine[length].append(filler)
            room -= len(encoded[filler].ids)
    return mine


def rows_in(settings: Settings, length: int) -> int:
    """How many rows of a length make a step of `tokens_per_step`."""
    return max(1, settings.tokens_per_step // length)


def batch(settings: Settings, encoded: list[Encoded], length: int, rows: list[list[int]]) -> Batch:
    """The arrays of one step; a last step with fewer rows is filled up with empty ones, to keep the shape."""
    shape = (rows_in(settings, length), length)
    made = Batch(
        np.zeros(shape, np.int64), np.zeros(shape, np.float32), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    )
    for r, row in enumerate(rows):
        at = 0
        for segment, number in enumerate(row, start=1):
            ids, weights = encoded[number]
            end = at + len(ids)
            made.ids[r, at:end] = ids
            made.weights[r, at : end - 1] = weights[1:]  # the weight of predicting the *next* id
            made.segments[r, at:end] = segment
            made.positions[r, at:end] = range(len(ids))
            at = end
    return made

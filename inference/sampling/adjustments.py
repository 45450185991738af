"""Changes to the logits before a token is chosen: grammar masks, banned tokens, biases, penalties.

Each change indexes only the tokens that it applies to, in all rows at once; only masks read whole rows. A row without
changes is not touched, and no row's changes have an effect on another row.
"""

from array import array
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from inference.scheduling.sample_args import SampleArgs
from inference.transfer import to_device

NEGATIVE_INFINITY = float("-inf")

Entry = tuple[int, "array[int]"]
"""A row, and token ids in it."""


def adjust(logits: Tensor, rows: Sequence[SampleArgs]) -> None:
    """Change `logits` [rows, vocabulary], float32, in place, as `rows` say."""
    masked = [number for number, row in enumerate(rows) if row.mask is not None]
    if masked:
        _mask(logits, masked, [row.mask for row in rows if row.mask is not None])
    if banned := [(number, row.banned_ids) for number, row in enumerate(rows) if row.banned_ids]:
        logits.view(-1)[_places(banned, logits)] = NEGATIVE_INFINITY
    if biased := [(number, row.bias) for number, row in enumerate(rows) if row.bias is not None]:
        places = _places([(number, bias.ids) for number, bias in biased], logits)
        biases = np.concatenate([np.frombuffer(bias.values, np.float32) for _, bias in biased])
        logits.view(-1)[places] += _on_device(biases, logits)
    if penalized := [(number, row) for number, row in enumerate(rows) if row.seen is not None and row.seen.ids]:
        _penalize(logits, penalized)


def _mask(
    logits: Tensor, numbers: Sequence[int], masks: Sequence["np.ndarray[tuple[int], np.dtype[np.int32]]"]
) -> None:
    """Ban the tokens whose bits are 0, in rows `numbers` with `masks` [rows, vocabulary / 32]."""
    vocabulary = logits.shape[-1]
    banned = np.unpackbits(~np.stack(masks).view(np.uint8), axis=1, bitorder="little", count=vocabulary)
    for number, row in zip(numbers, _on_device(banned.view(np.bool_), logits), strict=True):
        logits[number].masked_fill_(row, NEGATIVE_INFINITY)


def _penalize(logits: Tensor, penalized: Sequence[tuple[int, SampleArgs]]) -> None:
    """Divide the positive logits of seen tokens, multiply the negative ones; then subtract for what was generated."""
    factors, amounts, entries = [], [], []
    for number, row in penalized:
        assert row.seen is not None
        counts = np.frombuffer(row.seen.counts, np.int64)
        entries.append((number, row.seen.ids))
        factors.append(np.full(len(counts), row.repetition_penalty, np.float32))
        amounts.append((row.frequency_penalty * counts + row.presence_penalty * (counts > 0)).astype(np.float32))
    places = _places(entries, logits)
    factor = _on_device(np.concatenate(factors), logits)
    before = logits.view(-1)[places]
    after = torch.where(before > 0, before / factor, before * factor)
    logits.view(-1)[places] = after - _on_device(np.concatenate(amounts), logits)


def _places(entries: Sequence[Entry], logits: Tensor) -> Tensor:
    """The indices of these tokens' logits in the flattened `logits`."""

    def flat() -> Iterator["np.ndarray[tuple[int], np.dtype[np.int64]]"]:
        for number, token_ids in entries:
            yield np.frombuffer(token_ids, np.int64) + number * logits.shape[-1]

    return _on_device(np.concatenate(list(flat())), logits)


def _on_device(values: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]", logits: Tensor) -> Tensor:
    return to_device(torch.from_numpy(values), logits.device)

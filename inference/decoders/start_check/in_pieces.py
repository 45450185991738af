"""Runs a decoder on texts as requests run: together, in pieces, then token by token."""

from collections.abc import Sequence

import torch
from torch import Tensor

from inference.cache.kv_cache import KVCache
from inference.cache.layout import Piece, lay_out
from inference.decoders.decoder import Decoder

COMPARED = 7
"""How many of a text's last tokens are compared: one ends the prompt, the others are decoded."""
TOGETHER = 4
"""How many of them are computed next to the neighbour; the rest are decoded alone."""
PIECE = 512
"""Tokens of a long text that are prefilled at once."""


def in_pieces(decoder: Decoder, cache: KVCache, device: torch.device, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """The logits [compared, vocabulary] of the last tokens of each of one or two texts that run together.

    The first, which is the longer, is prefilled in pieces, the last of them together with the other's prompt. Then a
    few tokens of each are decoded, and the last ones of the longer by itself.
    """
    slots = [cache.slots - 1 - number for number in range(len(texts))]
    # The longer one goes on when the other has ended, so that steps of a single token are tried as well.
    decoded = [min(compared, len(text)) - 1 for compared, text in zip((COMPARED, TOGETHER), texts, strict=False)]
    prompts = [len(text) - count for text, count in zip(texts, decoded, strict=True)]
    found: list[list[Tensor]] = [[] for _ in texts]

    def run(decoding: dict[int, Piece], chunks: dict[int, Piece]) -> None:
        logits = decoder.forward(lay_out(list(decoding.values()), list(chunks.values()), cache, device))
        sampled = [number for pieces in (decoding, chunks) for number, piece in pieces.items() if piece.sampled]
        for number, row in zip(sampled, logits, strict=True):
            found[number].append(row)

    first = prompts[0]
    size = min(PIECE, max(1, first // 2))
    starts = range(0, first, size)
    for start in starts:
        end = min(first, start + size)
        chunks = {0: Piece(slots[0], start, texts[0][start:end], sampled=int(end == first))}
        if end == first and len(texts) > 1:
            chunks[1] = Piece(slots[1], 0, texts[1][: prompts[1]])
        run({}, chunks)
    for step in range(max(decoded)):
        run(
            {
                number: Piece(slots[number], prompts[number] + step, [text[prompts[number] + step]])
                for number, text in enumerate(texts)
                if step < decoded[number]
            },
            {},
        )
    return [torch.stack(rows) for rows in found]

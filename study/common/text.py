"""A piece of a text laid out for a decoder, without an engine."""

import torch
from torch import Tensor

from inference.cache.batch import Batch, Segment
from inference.cache.kv_cache import KVCache


def piece_of_text(ids: Tensor, cache: KVCache, start: int = 0, slot: int = 0) -> Batch:
    """A batch of one piece of a text, from position `start` on, with the logits of every token wanted."""
    size = len(ids)
    positions = torch.arange(start, start + size)
    return Batch(
        cache=cache,
        token_ids=ids[None],
        positions=positions[None],
        slots=torch.full_like(positions, slot),
        cache_positions=positions,
        runs=[],
        segments=[Segment(slot, 0, size, start, start + size)],
        sampled=torch.arange(size),
    )

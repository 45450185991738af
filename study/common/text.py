"""A piece of a text laid out for a decoder, without an engine."""

import torch
from torch import Tensor

from inference.cache.batch import Batch
from inference.cache.kv_cache import KVCache
from inference.cache.layout import Piece, lay_out


def piece_of_text(ids: Tensor, cache: KVCache, start: int = 0, slot: int = 0) -> Batch:
    """A batch of one piece of a text, from position `start` on, with the logits of every token wanted."""
    piece = Piece(slot, start, ids.tolist(), sampled=0, scored=len(ids))
    return lay_out([], [piece], cache, torch.device("cpu"))

"""Checks that logits are numbers, and not all of them 0."""

import torch
from torch import Tensor

from inference.cache.kv_cache import KVCache
from inference.cache.layout import Piece, lay_out
from inference.decoders.decoder import Decoder
from inference.weights.llama import Llama
from interface.errors import UnsupportedModel

TOKENS = 3


def refuse_not_finite(name: str, logits: Tensor, dtype: torch.dtype) -> None:
    """Check the logits of a model that computes in `dtype`.

    Raises:
        UnsupportedModel: one is NaN or infinite, or all are 0.
    """
    if not logits.any():
        raise UnsupportedModel(
            f"{name} by itself gives logits that are all 0. Are its files complete, and is no scale in its "
            f"configuration 0 (logit_scale, embedding_multiplier)?"
        )
    if not logits.isfinite().all():
        cause = (
            "Its weights are damaged, or a number in its configuration is."
            if dtype == torch.float32
            else "Either its weights are damaged, or the precision is too narrow for them: try ENGINE_DTYPE=float32."
        )
        raise UnsupportedModel(
            f"{name} by itself gives logits that are not finite, in {str(dtype).removeprefix('torch.')}. {cause}"
        )


def check_finite(decoder: Decoder, model: Llama, cache: KVCache) -> None:
    """Compute a few tokens with a decoder whose logits there is nothing to compare with.

    Raises:
        UnsupportedModel: they are not numbers.
    """
    text = [number * 7 % model.embedding.shape[0] for number in range(1, min(TOKENS, cache.context) + 1)]
    batch = lay_out([], [Piece(cache.slots - 1, 0, text)], cache, model.device)
    refuse_not_finite("The model", decoder.forward(batch), model.dtype)

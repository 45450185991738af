"""Attention over the slots of a KV cache: the one place where the engine chooses how attention is computed.

transformers calls whatever function a model's `attn_implementation` names, for every architecture alike
(`AttentionInterface`). Ours stores the new tokens' keys and values in the cache and lets each token look at its own
slot only. The layout of the batch reaches it as the keyword `batch` of the model's forward.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from inference.batch import Batch

SLOT_ATTENTION = "slots"


def slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    batch: Batch | None = None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend each token of a packed row to its own slot.

    Args:
        query: [1, heads, tokens, head_dim].
        key, value: [1, kv_heads, tokens, head_dim], of the new tokens.
        attention_mask: unused; transformers makes none for an attention that it does not know.
        sliding_window: how many positions back a token may look, itself included.

    Returns:
        [1, tokens, heads, head_dim], and no weights.

    Raises:
        NotImplementedError: the model needs something that this attention does not do.
    """
    if batch is None or s_aux is not None:
        raise NotImplementedError(f"{type(module).__name__} does not attend the way this engine's cache needs it to")
    layer: int = getattr(module, "layer_idx")  # noqa: B009  (nn.Module's own attributes are untyped)
    keys, values = batch.cache.write(layer, key, value, batch.slots, batch.columns)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    outputs: list[Tensor] = []  # of [tokens, heads, head_dim]
    if rows := batch.decode_rows:
        length = batch.decode_length
        output = grouped_attention(
            query[0, :, :rows].transpose(0, 1).unsqueeze(2),  # [rows, heads, 1, head_dim]
            keys[:rows, :, :length],
            values[:rows, :, :length],
            batch.decode_mask(sliding_window),
            scale,
            softcap,
        )
        outputs.append(output[:, :, 0])
    for segment in batch.segments:
        output = grouped_attention(
            query[:, :, segment.first : segment.last],
            keys[segment.slot, None, :, : segment.end],
            values[segment.slot, None, :, : segment.end],
            batch.segment_mask(segment, sliding_window),
            scale,
            softcap,
        )
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs).unsqueeze(0), None


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, softcap: float | None
) -> Tensor:
    """Attention with the query heads of one key/value head folded into the query's length.

    Two matrix products and a softmax in float32: with few queries on a CPU that is several times faster than
    `scaled_dot_product_attention(enable_gqa=True)`, which repeats the keys and values for every query head.

    Args:
        query: [rows, heads, tokens, head_dim].
        key, value: [rows, kv_heads, length, head_dim].
        mask: [rows or 1, 1, tokens, length], added to the scores.

    Returns:
        [rows, heads, tokens, head_dim].
    """
    rows, heads, tokens, _ = query.shape
    kv_heads, length = key.shape[1:3]
    group = heads // kv_heads
    folded = query.reshape(rows, kv_heads, group * tokens, -1)
    scores = torch.matmul(folded, key.transpose(-1, -2)).float() * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.view(rows, kv_heads, group, tokens, length) + mask.unsqueeze(2)
    weights = scores.softmax(-1).to(value.dtype).view(rows, kv_heads, group * tokens, length)
    return torch.matmul(weights, value).reshape(rows, heads, tokens, -1)


AttentionInterface.register(SLOT_ATTENTION, slot_attention)

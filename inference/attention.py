"""Attention over the slots of a KV cache: the one place where the engine chooses how attention is computed.

transformers calls whatever function a model's `attn_implementation` names, for every architecture alike
(`AttentionInterface`). Ours stores the new tokens' keys and values in the cache and lets each token look at its own
slot only. The layout of the batch reaches it as the keyword `batch` of the model's forward.
"""

from typing import Any

import torch
import torch.nn.functional as F
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
    keys, values = batch.cache.write(layer, key, value, batch.slots, batch.positions[0])
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    outputs: list[Tensor] = []  # of [tokens, heads, head_dim]
    for run in batch.runs:
        slots = slice(run.slot, run.slot + run.last - run.first)
        output = grouped_attention(
            query[0, :, run.first : run.last].transpose(0, 1).unsqueeze(2),  # [requests, heads, 1, head_dim]
            keys[slots, :, : run.length],
            values[slots, :, : run.length],
            batch.run_mask(run, sliding_window, query.dtype),
            scale,
            softcap,
        )
        outputs.append(output[:, :, 0])
    for segment in batch.segments:
        output = grouped_attention(
            query[:, :, segment.first : segment.last],
            keys[segment.slot, None, :, : segment.end],
            values[segment.slot, None, :, : segment.end],
            batch.segment_mask(segment, sliding_window, query.shape[1] // key.shape[1], query.dtype),
            scale,
            softcap,
        )
        outputs.append(output[0].transpose(0, 1))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).unsqueeze(0), None


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, softcap: float | None
) -> Tensor:
    """Attention with the query heads of one key/value head folded into the query's length.

    With few queries on a CPU that is several times faster than `scaled_dot_product_attention(enable_gqa=True)`, which
    goes through the keys and values once for every query head.

    Args:
        query: [rows, heads, tokens, head_dim].
        key, value: [rows, kv_heads, length, head_dim].
        mask: [rows or 1, 1, group * tokens or 1, length], added to the scores; group = heads / kv_heads.

    Returns:
        [rows, heads, tokens, head_dim].
    """
    rows, heads, tokens, _ = query.shape
    kv_heads = key.shape[1]
    folded = query.reshape(rows, kv_heads, heads // kv_heads * tokens, -1)
    if softcap is None:
        output = F.scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scale)
    else:
        scores = torch.matmul(folded, key.transpose(-1, -2)).float() * scale
        weights = (torch.tanh(scores / softcap) * softcap + mask).softmax(-1)
        output = torch.matmul(weights.to(value.dtype), value)
    return output.reshape(rows, heads, tokens, -1)


AttentionInterface.register(SLOT_ATTENTION, slot_attention)

"""Attention over the slots of a KV cache: the one place where the engine chooses how attention is computed.

For every architecture, transformers calls the function that the model's `attn_implementation` names
(`AttentionInterface`). Ours stores the new tokens' keys and values in the cache and lets each token attend to its own
slot only. The model decides which part of the slot a token sees, a window or a chunk of the text: where transformers
asks for its mask (`AttentionMaskInterface`), we return the number of a function that makes it, and pass that to the
layers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.cache.batch import CAUSAL, Batch, Run, Segment
from inference.cache.rows import CachedLayer

LAYER = "slot_layer"
"""The attribute of an attention module that has, as a tensor, the number of its layer in the cache."""

FLASH_CONVERTS = torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()
"""Whether torch's flash kernel, which knows tiles (AMX), turns bfloat16 into float32 on this processor, while oneDNN's
products have instructions for it as it is."""
FEW_SCORES = 8192
"""Up to here, one call of a slow kernel is quicker than three of quick ones."""

_batch: Batch | None = None
"""The batch of the running forward; see `forward_context`."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a layer turns the scores of queries and keys into weights of the values."""

    scale: float
    softcap: float | None = None
    """A bound that scores approach, as `tanh` approaches 1."""
    sinks: Tensor | None = None
    """[heads], a score for each head that takes part in the softmax and has no value: an attention sink."""
    visible: int = CAUSAL
    """Which of the batch's visibilities says what a token sees."""


def slot_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend each token of a packed row to its own slot.

    Args:
        query: [rows, heads, tokens, head_dim], where the batch's tokens are in one row, or each in a row of its own.
        key, value: [rows, kv_heads, tokens, head_dim], of the new tokens; values may be of another width.
        attention_mask: the number that `slot_mask` has given; None from a model that asks for no mask.
        sliding_window: how many positions back a token may look, itself included; a mask says it too.
        s_aux: the attention sinks; see `Scoring`.

    Returns:
        [rows, tokens, heads, head_dim], and no weights.

    Raises:
        NotImplementedError: the model needs something that this attention does not do.
    """
    layer = getattr(module, LAYER, None)
    name = type(module).__name__
    if layer is None:
        raise NotImplementedError(f"{name} does not say which layer it is")
    if position_bias is not None:
        raise NotImplementedError(f"{name} adds a bias of its own to the scores; expected scores of queries and keys")
    if attention_mask is not None and (attention_mask.dtype != torch.int64 or attention_mask.numel() != 1):
        raise NotImplementedError(f"{name} makes masks of its own; expected those that transformers makes for models")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    attend = torch.ops.engine.attend if torch.compiler.is_compiling() else _attend
    return attend(query, key, value, layer, attention_mask, scale, softcap, sliding_window, s_aux), None


def slot_mask(
    batch_size: int, q_length: int, kv_length: int, *, mask_function: Callable[..., Tensor], **kwargs: Any
) -> Tensor:
    """Return the "mask" that transformers passes to the layers: the number of a function of positions, [1, 1, 1, 1]."""
    assert _batch is not None, "the model runs outside of `forward_context`"
    _batch.visibilities.append(lambda positions, keys: mask_function(0, 0, positions, keys))
    return torch.tensor([[[[len(_batch.visibilities) - 1]]]])


@contextmanager
def forward_context(batch: Batch) -> Iterator[None]:
    """Within this, attention works on `batch`. Only the tensor thread calls it, so there is one batch at a time."""
    global _batch
    _batch = batch
    try:
        yield
    finally:
        _batch = None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layer: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    assert _batch is not None, "the model runs outside of `forward_context`"
    rows = len(query)
    query, key, value = (tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
    visible = _batch.visibility(window) if mask is None else int(mask)
    outputs = attend_slots(_batch, int(layer), query, key, value, Scoring(scale, softcap, sinks, visible))
    return outputs.reshape(rows, -1, *outputs.shape[1:]).contiguous()  # as `_attend_shape` promises the compiler


def attend_slots(batch: Batch, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
    """Store a layer's new keys and values, and attend each token of a packed row to its own slot.

    Args:
        query: [tokens, heads, head_dim].
        key, value: [tokens, kv_heads, head_dim].

    Returns:
        [tokens, heads, head_dim], as wide as the values.
    """
    batch.used.add(scoring.visible)
    cached = batch.layer(layer, key, value, scoring.visible)
    # Read before anything is written: a long chunk may overwrite the keys and values that its own first tokens see.
    chunks = [_before(cached, segment) for segment in batch.segments]
    cached.write(key, value, batch.slot_mapping(cached))
    outputs = [_attend_run(batch, run, query, cached, scoring) for run in batch.runs]
    for segment, before in zip(batch.segments, chunks, strict=True):
        keys, values = _of_segment(cached, segment, before, key, value)
        outputs.append(_attend_segment(batch, segment, query, keys, values, scoring))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attend_run(batch: Batch, run: Run, query: Tensor, cached: CachedLayer, scoring: Scoring) -> Tensor:
    """Attention of decoding sequences in neighbouring slots, one token each: [tokens, heads, head_dim]."""
    slots, columns = slice(run.slot, run.slot + run.last - run.first), min(run.length, cached.kept)
    return grouped_attention(
        query[run.first : run.last].unsqueeze(2),  # [requests, heads, 1, head_dim]
        cached.keys[slots, :, :columns],
        cached.values[slots, :, :columns],
        batch.run_mask(run, scoring.visible, query.dtype, cached.kept),
        scoring,
    ).squeeze(2)


def _attend_segment(
    batch: Batch, segment: Segment, query: Tensor, keys: Tensor, values: Tensor, scoring: Scoring
) -> Tensor:
    """Attention of several tokens of one sequence: [tokens, heads, head_dim]."""
    group = query.shape[1] // keys.shape[1]
    return grouped_attention(
        query[segment.first : segment.last].transpose(0, 1).unsqueeze(0),  # [1, heads, tokens, head_dim]
        keys,
        values,
        batch.segment_mask(segment, scoring.visible, group, query.dtype, segment.end - keys.shape[2]),
        scoring,
    )[0].transpose(0, 1)


def _before(cached: CachedLayer, segment: Segment) -> list[Tensor]:
    """The keys and values that a chunk sees before itself in a ring that has wrapped; empty if it has not.

    [1, kv_heads, length, head_dim] each, in the order of the text.
    """
    if segment.end <= cached.kept:
        return []
    assert cached.window is not None
    columns = cached.columns(max(0, segment.start - cached.window + 1), segment.start)
    return [tensor[segment.slot, columns].transpose(0, 1).unsqueeze(0) for tensor in cached.stored]


def _of_segment(
    cached: CachedLayer, segment: Segment, before: Sequence[Tensor], key: Tensor, value: Tensor
) -> list[Tensor]:
    """The keys and values that a chunk sees, its own included: [1, kv_heads, length, head_dim]."""
    if not before:
        return [tensor[segment.slot, None, :, : segment.end] for tensor in (cached.keys, cached.values)]
    new = [tensor[segment.first : segment.last].transpose(0, 1).unsqueeze(0) for tensor in (key, value)]
    return [torch.cat(parts, dim=2) for parts in zip(before, new, strict=True)]


def _attend_shape(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layer: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    rows, heads, tokens, _ = query.shape
    return query.new_empty((rows, tokens, heads, value.shape[-1]))


def grouped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scoring: Scoring) -> Tensor:
    """Attention with the query heads of one key/value head folded into the query's length.

    With few queries on a CPU that is several times faster than `scaled_dot_product_attention(enable_gqa=True)`, which
    goes through the keys and values once for every query head.

    Args:
        query: [rows, heads, tokens, head_dim].
        key, value: [rows, kv_heads, length, head_dim].
        mask: [rows or 1, 1, group * tokens or 1, length], added to the scores; group = heads / kv_heads.

    Returns:
        [rows, heads, tokens, head_dim], as wide as the values.
    """
    rows, heads, tokens, _ = query.shape
    kv_heads = key.shape[1]
    folded = query.reshape(rows, kv_heads, heads // kv_heads * tokens, -1)
    if scoring.softcap is not None or scoring.sinks is not None:
        scores = torch.matmul(folded, key.transpose(-1, -2)).float() * scoring.scale
        if scoring.softcap is not None:
            scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
        weights = _softmax(scores + mask, scoring.sinks)
        output = torch.matmul(weights.to(value.dtype), value)
    elif _is_quicker_in_products(query, key):
        mask = mask.expand(rows, kv_heads, folded.shape[2], -1).flatten(0, 1)
        scores = torch.baddbmm(mask, folded.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=scoring.scale)
        output = torch.bmm(scores.softmax(-1), value.flatten(0, 1))
    else:
        output = F.scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scoring.scale)
    return output.reshape(rows, heads, tokens, -1)


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """The weights of `scores` [rows, kv_heads, group * tokens, length], without what a head's sink takes of them."""
    if sinks is None:
        return scores.softmax(-1)
    rows, kv_heads, queries, length = scores.shape
    per_query = sinks.float().reshape(kv_heads, -1, 1)  # [kv_heads, group, 1]
    sink = per_query.expand(-1, -1, queries // per_query.shape[1]).reshape(1, kv_heads, queries, 1)
    return torch.cat([scores, sink.expand(rows, -1, -1, -1)], dim=-1).softmax(-1)[..., :length]


def _is_quicker_in_products(query: Tensor, key: Tensor) -> bool:
    """Whether two matrix products are faster than torch's own kernel. Not for a single token: its keys and values would
    have to be copied into order, and there is too little to multiply.
    """
    rows, heads, tokens, _ = query.shape
    return (
        FLASH_CONVERTS
        and query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and rows * tokens > 1
        and rows * heads * tokens * key.shape[2] >= FEW_SCORES
    )


# To the compiler, attention is one opaque operator, so that its graphs do not depend on the batch. An operator of torch
# takes no objects, so `_attend` has a parameter for everything.
_library = torch.library.Library("engine", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "attend(Tensor query, Tensor key, Tensor value, Tensor layer, Tensor? mask, float scale, float? softcap, "
    "int? window, Tensor? sinks) -> Tensor"
)
_library.impl("attend", _attend, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
_library.impl("attend", _attend_shape, "Meta")  # type: ignore[no-untyped-call]

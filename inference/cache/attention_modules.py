"""Switches a transformers model over to slot attention.

Most architectures attend through `AttentionInterface` and only need the name of our function. GPT-J and CodeGen (until
transformers 5.24) and GPT-Neo are older: the products and the softmax are in a method of the module, which takes the
same tensors and is replaced.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from inference.cache.attention import LAYER, slot_attention, slot_mask

SLOT_ATTENTION = "slots"
AttentionInterface.register(SLOT_ATTENTION, slot_attention)
AttentionMaskInterface.register(SLOT_ATTENTION, slot_mask)


@dataclass(frozen=True, slots=True)
class _Method:
    """The settings of a module's own `_attn`: the factor of the scores, how far back it looks, its layer."""

    scaling: Callable[[Any], float]
    window: Callable[[Any], int | None]
    layer: Callable[[Any], int]


_METHODS: Mapping[str, _Method] = {
    **dict.fromkeys(
        ("GPTJAttention", "CodeGenAttention"),
        _Method(lambda module: 1 / float(module.scale_attn), lambda module: None, lambda module: int(module.layer_idx)),
    ),
    "GPTNeoSelfAttention": _Method(
        lambda module: 1.0,
        lambda module: module.config.window_size if module.attention_type == "local" else None,
        lambda module: int(module.layer_id),
    ),
}


def use_slot_attention(model: PreTrainedModel) -> None:
    """Switch a model over, for good."""
    model.set_attn_implementation(SLOT_ATTENTION)
    for module in list(model.modules()):
        method = _METHODS.get(type(module).__name__) if hasattr(module, "_attn") else None
        layer = getattr(module, "layer_idx", None) if method is None else method.layer(module)
        if isinstance(layer, int):
            # A tensor, so that compiled code may be the same for every layer.
            module.register_buffer(LAYER, torch.tensor(layer), persistent=False)
        if method is not None:
            object.__setattr__(module, "_attn", partial(_attend, module, method.scaling(module), method.window(module)))


def _attend(
    module: nn.Module,
    scaling: float,
    window: int | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
) -> tuple[Tensor, None]:
    """Replace `_attn`: return [1, heads, tokens, head_dim], and no weights.

    The masks of these models are fully described by the window.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)
    output, _ = slot_attention(module, query, key, value, None, scaling=scaling, sliding_window=window)
    return output.transpose(1, 2), None

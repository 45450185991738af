"""The memory that a step works in: see `Step` in structures.hpp."""

import ctypes

import torch
from torch import Tensor

from inference.decoders.native import structures
from inference.decoders.native.packing import BLOCK, INPUT_BYTES, PANEL
from inference.decoders.native.sources import STRIP


def scratch(
    model: structures.Model, rows: int, threads: int, dtype: torch.dtype, is_quantized: bool
) -> dict[str, Tensor]:
    """Tensors for steps of up to `rows` tokens, which are whole blocks, by the names of the fields.

    They are zeros, and what fills up the inputs of a product stays so.
    """
    layers = [model.layers[number] for number in range(model.layer_count)]
    first = layers[0]
    # What quantized matrices are multiplied with is rounded once, just before.
    activations = torch.float32 if is_quantized else dtype
    is_narrowed = is_quantized and dtype == torch.bfloat16
    of_mlp, of_experts = (
        max((layer.down.inputs for layer in layers if bool(layer.router) == has_experts), default=0)
        for has_experts in (False, True)
    )
    most_inputs = max(first.qkv.inputs, first.output.inputs, of_mlp, of_experts, model.head.inputs)
    copies = rows * model.experts_per_token  # a token's rows in a layer with experts
    most_rows = max(rows, copies + BLOCK)  # a tile reads on behind the last rows of an expert
    return {
        "neighbours": torch.zeros(rows, dtype=torch.int64),
        "places": torch.zeros(rows, dtype=torch.int64),
        "hidden": torch.zeros(rows, model.hidden),
        "added": torch.zeros(rows if first.attended_norm else 0, model.hidden),
        "qkv": torch.zeros(rows, first.qkv.panel_count * PANEL),
        "normed": torch.zeros(rows, first.qkv.inputs, dtype=activations),
        "attended": torch.zeros(rows, first.output.inputs, dtype=activations),
        "activated": torch.zeros(rows, of_mlp, dtype=activations),
        "scores": torch.zeros(threads, model.context, STRIP),
        "inputs": torch.zeros(most_rows * INPUT_BYTES * most_inputs if is_narrowed else 0, dtype=torch.uint8),
        "shares": torch.zeros(threads, ctypes.sizeof(structures.Share), dtype=torch.uint8),
        "widened": torch.zeros(threads, most_inputs * PANEL if is_quantized else 0, dtype=dtype),
        "expert_scores": torch.full((rows, model.padded_experts), -torch.inf),
        "expert_weights": torch.zeros(rows, model.padded_experts),
        "experts": torch.zeros(copies, dtype=torch.int64),
        "expert_rows": torch.zeros(copies, dtype=torch.int64),
        "groups": torch.zeros(model.experts + 1, ctypes.sizeof(structures.Group), dtype=torch.uint8),
        "expert_inputs": torch.zeros(copies + BLOCK, first.qkv.inputs if copies else 0, dtype=activations),
        "expert_activated": torch.zeros(copies + BLOCK, of_experts, dtype=activations),
        "expert_outputs": torch.zeros(copies, model.hidden),
    }

"""gpt-oss: a mixture of experts with biases, attention sinks, and windows in every other layer."""

from typing import Any

import torch
from torch import Tensor

from inference.weights.gguf.architecture import (
    LAYER,
    QKVO,
    WINDOWS,
    Architecture,
    Made,
    as_it_is,
    layer_types,
    required_window,
    transposed,
)
from inference.weights.gguf.file import GGUFFile


def _gpt_oss(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """The range in which frequencies are stretched has no whole bounds; no file says so, as there are no others."""
    window = required_window(file)
    return {
        "num_local_experts": file.count("expert_count"),
        "num_experts_per_tok": file.count("expert_used_count"),
        "intermediate_size": file.count("expert_feed_forward_length"),
        "sliding_window": window,
        "layer_types": layer_types(file, common, every=2),
        "rope_parameters": common["rope_parameters"] | {"truncate": False},
    }


def _in_turn(gate: Tensor, up: Tensor) -> Tensor:
    """Gates and ups in turn: [experts, rows] twice as [experts, 2 × rows]."""
    return torch.stack((gate, up), dim=-1).flatten(-2)


def _columns_in_turn(gate: Tensor, up: Tensor) -> Tensor:
    return _in_turn(gate.transpose(1, 2), up.transpose(1, 2))


FAMILY = {
    "gpt-oss": Architecture(
        "gpt_oss",
        _gpt_oss,
        WINDOWS | {"expert_count", "expert_used_count", "expert_feed_forward_length"},
        LAYER | {"post_attention_norm": "post_attention_layernorm", "ffn_gate_inp": "mlp.router"},
        made=(
            Made("self_attn.sinks", ("attn_sinks.weight",), as_it_is),
            Made("mlp.experts.gate_up_proj", ("ffn_gate_exps.weight", "ffn_up_exps.weight"), _columns_in_turn),
            Made("mlp.experts.gate_up_proj_bias", ("ffn_gate_exps.bias", "ffn_up_exps.bias"), _in_turn),
            Made("mlp.experts.down_proj", ("ffn_down_exps.weight",), transposed),
            Made("mlp.experts.down_proj_bias", ("ffn_down_exps.bias",), as_it_is),
        ),
        biases={"attention_bias": QKVO},
    ),
}

"""Llama 4: experts in some layers or all, and attention within chunks of a text in three layers of four."""

from typing import Any

import torch
from torch import Tensor

from inference.weights.gguf.architecture import LAYER, QKVO, Architecture, Made, transposed
from inference.weights.gguf.file import BadGGUF, GGUFFile

CHUNK = 8192
"""Tokens that see each other in layers of chunks, and after which queries of the others grow. No file says it."""
WITHOUT_NORMS = 128
"""The number of experts of the one model whose queries and keys are not normed. No file says that, either."""


def _llama4(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    if "llama4.attention.sliding_window" in file.metadata:
        raise BadGGUF(file.path, "llama4.attention.sliding_window is not supported; expected a model of chunks")
    experts = file.count("expert_count")
    return {
        "intermediate_size": file.count("expert_feed_forward_length"),
        "intermediate_size_mlp": common["intermediate_size"],
        "num_local_experts": experts,
        "num_experts_per_tok": file.count("expert_used_count"),
        "interleave_moe_layer_step": file.count("interleave_moe_layer_step"),
        "attention_chunk_size": CHUNK,
        "floor_scale": CHUNK,
        "attn_scale": 0.1,
        "attn_temperature_tuning": True,
        "use_qk_norm": experts != WITHOUT_NORMS,
    }


def _columns(gate: Tensor, up: Tensor) -> Tensor:
    """The experts' gates and ups as [experts, inputs, 2 × outputs]."""
    return transposed(torch.cat((gate, up), dim=1))


FEED_FORWARD = {
    "ffn_gate": "feed_forward.gate_proj",
    "ffn_up": "feed_forward.up_proj",
    "ffn_down": "feed_forward.down_proj",
    "ffn_gate_inp": "feed_forward.router",
    "ffn_gate_shexp": "feed_forward.shared_expert.gate_proj",
    "ffn_up_shexp": "feed_forward.shared_expert.up_proj",
    "ffn_down_shexp": "feed_forward.shared_expert.down_proj",
}
FAMILY = {
    "llama4": Architecture(
        "llama4_text",
        _llama4,
        frozenset(
            (
                *("expert_count", "expert_used_count", "expert_feed_forward_length", "interleave_moe_layer_step"),
                "attention.sliding_window",
            )
        ),
        LAYER | FEED_FORWARD,
        made=(
            Made("feed_forward.experts.gate_up_proj", ("ffn_gate_exps.weight", "ffn_up_exps.weight"), _columns),
            Made("feed_forward.experts.gate_up_proj", ("ffn_gate_up_exps.weight",), transposed),
            Made("feed_forward.experts.down_proj", ("ffn_down_exps.weight",), transposed),
        ),
        biases={"attention_bias": QKVO},
    ),
}

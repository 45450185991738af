"""LFM2, with experts or without: short convolutions in most layers, attention in the others."""

from typing import Any

from inference.weights.gguf.architecture import LAYER, TOP, Architecture, Made, as_it_is, experts
from inference.weights.gguf.families.mixtures import CORRECTION, SIGMOID, check_gating
from inference.weights.gguf.families.states import kernels
from inference.weights.gguf.file import GGUFFile
from inference.weights.gguf.heads import attends


def _lfm2(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Files have the width of the MLP as it is; transformers may compute it from another number."""
    return {
        "layer_types": ["full_attention" if has_keys else "conv" for has_keys in attends(file)],
        "conv_L_cache": file.count("shortconv.l_cache"),
        "block_auto_adjust_ff_dim": False,
    }


def _lfm2_moe(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """The scale of experts' weights, which the converter leaves out, is 1 in all models of this kind."""
    check_gating(file, SIGMOID)
    return _lfm2(file, common) | {
        "num_dense_layers": file.get("lfm2moe.leading_dense_block_count", int, 0),
        "num_experts": file.count("expert_count"),
        "num_experts_per_tok": file.count("expert_used_count"),
        "moe_intermediate_size": file.count("expert_feed_forward_length"),
        "use_expert_bias": file.has_in_layers(CORRECTION),
    }


LFM2 = {
    "attn_norm": "operator_norm",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
}
NORM = {"output_norm": "model.embedding_norm", "token_embd_norm": "model.embedding_norm"}
"""The norm behind the last layer; most files have it under the second name."""
CONVOLUTION = Made("conv.conv.weight", ("shortconv.conv.weight",), kernels)
EXPERT_BIAS = Made("feed_forward.expert_bias", (CORRECTION,), as_it_is)
EPSILON = ("attention.layer_norm_rms_epsilon", "norm_eps")
OF_MIXTURE = frozenset(
    (
        *("shortconv.l_cache", "leading_dense_block_count", "expert_gating_func"),
        *("expert_count", "expert_used_count", "expert_feed_forward_length"),
    )
)
FAMILY = {
    "lfm2": Architecture(
        "lfm2",
        _lfm2,
        frozenset({"shortconv.l_cache"}),
        LAYER | LFM2,
        TOP | NORM,
        made=(CONVOLUTION,),
        keeps_states=True,
        epsilon=EPSILON,
    ),
    "lfm2moe": Architecture(
        "lfm2_moe",
        _lfm2_moe,
        OF_MIXTURE,
        LAYER | LFM2 | {"ffn_gate_inp": "feed_forward.gate"},
        TOP | NORM,
        made=(CONVOLUTION, *experts("feed_forward.experts"), EXPERT_BIAS),
        keeps_states=True,
        epsilon=EPSILON,
    ),
}

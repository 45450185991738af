"""Mixtures of experts with experts for all tokens, as DeepSeek has them: DeepSeek 2 and 3, GLM 4.5, ERNIE 4.5."""

from typing import Any

import torch
from torch import Tensor

from inference.weights.gguf.architecture import (
    EXPERTS,
    LAYER,
    MLP,
    QKV,
    QKVO,
    Architecture,
    Made,
    as_a_row,
    as_it_is,
    experts,
)
from inference.weights.gguf.file import BadGGUF, GGUFFile

SOFTMAX, SIGMOID = 1, 2
"""llama.cpp's numbers for what makes weights of the router's scores."""
SHARED = {
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}
CORRECTION = "exp_probs_b.bias"
"""What is added to the scores when experts are chosen, and not when they are weighed."""
CORRECTED = Made("mlp.gate.e_score_correction_bias", (CORRECTION,), as_it_is)
ROUTING = frozenset(
    (
        *("expert_count", "expert_used_count", "expert_shared_count", "expert_feed_forward_length"),
        *("expert_weights_scale", "expert_weights_norm", "expert_group_count", "expert_group_used_count"),
        *("expert_gating_func", "leading_dense_block_count"),
    )
)


def check_gating(file: GGUFFile, expected: int, *also: int) -> None:
    """See that a file names the function by which its architecture weighs experts, or none at all.

    Args:
        also: other numbers that mean the same.

    Raises:
        BadGGUF: it names another one.
    """
    name = f"{file.architecture}.expert_gating_func"
    if (function := file.get(name, int, expected)) not in (expected, *also):
        raise BadGGUF(file.path, f"{name} is {function}; expected {expected}")


def routing(file: GGUFFile, expected: int) -> dict[str, Any]:
    """How tokens find their experts. `expected` is the function that this architecture weighs them with."""
    name = file.architecture
    check_gating(file, expected, 0)
    return {
        "first_k_dense_replace": file.get(f"{name}.leading_dense_block_count", int, 0),
        "n_routed_experts": file.count("expert_count"),
        "num_experts_per_tok": file.count("expert_used_count"),
        "n_shared_experts": file.count("expert_shared_count"),
        "moe_intermediate_size": file.count("expert_feed_forward_length"),
        "routed_scaling_factor": file.get(f"{name}.expert_weights_scale", float, 1.0) or 1.0,
        "norm_topk_prob": file.get(f"{name}.expert_weights_norm", bool, False),
        "n_group": file.get(f"{name}.expert_group_count", int, 1) or 1,
        "topk_group": file.get(f"{name}.expert_group_used_count", int, 1) or 1,
    }


def is_corrected(file: GGUFFile) -> bool:
    """Whether the router is that of DeepSeek 3. Not all of its files name the function."""
    return file.has_in_layers(CORRECTION)


# --- Attention of latents ---------------------------------------------------------------------------------------------


def _latents(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """The sizes of keys and values that are made of one latent for all heads.

    llama.cpp computes with the latents, so newer files call their width that of keys and values.
    """
    rotated = file.count("rope.dimension_count")
    keys, values = (
        file.count(f"attention.{of}_length_mla", file.count(f"attention.{of}_length")) for of in ("key", "value")
    )
    return {
        "kv_lora_rank": file.count("attention.kv_lora_rank"),
        "q_lora_rank": file.count("attention.q_lora_rank") if file.has_in_layers("attn_q_a.weight") else None,
        "qk_rope_head_dim": rotated,
        "qk_nope_head_dim": keys - rotated,
        "v_head_dim": values,
        "rope_parameters": _rope(file, common["rope_parameters"]),
    }


def _rope(file: GGUFFile, rope: dict[str, Any]) -> dict[str, Any]:
    """The scheme, with what scores are multiplied by where it is YaRN's: its two settings are the same in all models.

    Files have a tenth of them.
    """
    scale = file.get("deepseek2.rope.scaling.yarn_log_multiplier", float, 0.0) * 10
    return rope | ({"mscale": scale, "mscale_all_dim": scale} if scale and rope["rope_type"] == "yarn" else {})


def _keys_and_values(keys: Tensor, values: Tensor) -> Tensor:
    """One matrix of the rows of each head, of [heads, latent, key] and [heads, value, latent]."""
    rows = torch.cat((keys.transpose(1, 2), values), dim=1)
    return rows.reshape(-1, rows.shape[-1])


def _deepseek2(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    routed = routing(file, SOFTMAX)
    if routed.pop("norm_topk_prob"):
        raise BadGGUF(file.path, "deepseek2.expert_weights_norm is true, which is not supported with softmax")
    method = "group_limited_greedy" if routed["n_group"] > 1 else "greedy"
    return _latents(file, common) | routed | {"topk_method": method}


def _deepseek3(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return _latents(file, common) | routing(file, SIGMOID)


LATENTS = {
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
}
OF_LATENTS = frozenset(
    (
        *("attention.kv_lora_rank", "attention.q_lora_rank", "attention.key_length_mla", "attention.value_length_mla"),
        *("rope.scaling.yarn_log_multiplier", "nextn_predict_layers"),
    )
)
LATENT_MIXTURE = LAYER | EXPERTS | SHARED | LATENTS
KEYS_AND_VALUES = Made("self_attn.kv_b_proj.weight", ("attn_k_b.weight", "attn_v_b.weight"), _keys_and_values)


# --- The others -------------------------------------------------------------------------------------------------------


def _glm4_moe(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return routing(file, SIGMOID) | {"use_qk_norm": file.has_in_layers("attn_q_norm.weight")}


def _ernie(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    routed = routing(file, SOFTMAX)
    return {
        "moe_num_experts": routed["n_routed_experts"],
        "moe_k": routed["num_experts_per_tok"],
        "moe_num_shared_experts": routed["n_shared_experts"],
        "moe_intermediate_size": routed["moe_intermediate_size"],
        "moe_layer_start_index": routed["first_k_dense_replace"],
        "moe_layer_end_index": common["num_hidden_layers"] - 1,
        "moe_layer_interval": file.count("interleave_moe_layer_step", 1),
    }


DEEPSEEK3 = Architecture(
    "deepseek_v3",
    _deepseek3,
    ROUTING | OF_LATENTS,
    LATENT_MIXTURE,
    made=(*experts(), CORRECTED, KEYS_AND_VALUES),
    has_latents=True,
)
"""Its files say `deepseek2`, as those of DeepSeek 2 do; it is also GLM 4.7 Flash."""
FAMILY = {
    "deepseek2": Architecture(
        "deepseek_v2",
        _deepseek2,
        ROUTING | OF_LATENTS,
        LATENT_MIXTURE,
        made=(*experts(), KEYS_AND_VALUES),
        has_latents=True,
    ),
    "glm4moe": Architecture(
        "glm4_moe",
        _glm4_moe,
        ROUTING | {"nextn_predict_layers"},
        LAYER | EXPERTS | SHARED | {"post_attention_norm": "post_attention_layernorm"},
        made=(*experts(), CORRECTED),
        rotates_in_part=True,
        biases={"attention_bias": QKV},
    ),
    "ernie4_5-moe": Architecture(
        "ernie4_5_moe",
        _ernie,
        ROUTING | {"interleave_moe_layer_step", "expert_shared_feed_forward_length"},
        LAYER | EXPERTS | SHARED,
        made=(*experts(), Made("mlp.gate.moe_statics.e_score_correction_bias", (CORRECTION,), as_a_row)),
        biases={"use_bias": (*QKVO, *MLP)},
    ),
}

"""How llama.cpp's converter writes mixtures of experts and attention of latents."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from tests.support.gguf_rules import Written, rotated_in_part, thetas, windows, yarn

PREDICTS = {"nextn_predict_layers": 1, "expert_gating_func": 2}
KEY, VALUE = 16, 12
"""The widths, in test models, of a head's keys without what is rotated, and of its values."""
AFMOE_NAMES = {
    "self_attn.gate_proj": "attn_gate",
    "post_attention_layernorm": "post_attention_norm",
    "pre_mlp_layernorm": "ffn_norm",
    "post_mlp_layernorm": "post_ffw_norm",
    "mlp.router.gate": "ffn_gate_inp",
}
LLAMA4_NAMES = {
    "feed_forward.gate_proj": "ffn_gate",
    "feed_forward.up_proj": "ffn_up",
    "feed_forward.down_proj": "ffn_down",
    "feed_forward.router": "ffn_gate_inp",
    "feed_forward.shared_expert.gate_proj": "ffn_gate_shexp",
    "feed_forward.shared_expert.up_proj": "ffn_up_shexp",
    "feed_forward.shared_expert.down_proj": "ffn_down_shexp",
}
SHARED_EXPERTS = {
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}
LATENTS = {
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
}


def _heads_by_layer(config: PreTrainedConfig) -> dict[str, Any]:
    rope = config.rope_parameters
    return {
        "attention.head_count": config.num_attention_heads_per_layer,
        "rope.dimension_count": int(config.head_dim * rope["full_attention"]["partial_rotary_factor"]),
        "rope.dimension_count_swa": int(config.head_dim * rope["sliding_attention"]["partial_rotary_factor"]),
        "expert_weights_scale": config.moe_routed_scaling_factor,
        "expert_weights_norm": True,
        "expert_gating_func": 2,
        "leading_dense_block_count": config.mlp_layer_types.index("sparse"),
    } | thetas(config)


def _gpt_oss(config: PreTrainedConfig) -> dict[str, Any]:
    return yarn(config) | {
        "attention.sliding_window": config.sliding_window,
        "expert_feed_forward_length": config.intermediate_size,
    }


def _gpt_oss_experts(name: str, weight: Tensor) -> dict[str, Tensor]:
    match name:
        case "self_attn.sinks":
            return {"attn_sinks.weight": weight}
        case "mlp.experts.gate_up_proj":
            rows = weight.transpose(1, 2)
            return {"ffn_gate_exps.weight": rows[:, ::2], "ffn_up_exps.weight": rows[:, 1::2]}
        case "mlp.experts.gate_up_proj_bias":
            return {"ffn_gate_exps.bias": weight[:, ::2], "ffn_up_exps.bias": weight[:, 1::2]}
        case "mlp.experts.down_proj":
            return {"ffn_down_exps.weight": weight.transpose(1, 2)}
        case "mlp.experts.down_proj_bias":
            return {"ffn_down_exps.bias": weight}
    return {}


def _mixture(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "expert_count": config.n_routed_experts,
        "expert_shared_count": config.n_shared_experts,
        "expert_group_count": config.n_group,
        "expert_group_used_count": config.topk_group,
        "expert_weights_scale": config.routed_scaling_factor,
        "expert_weights_norm": config.norm_topk_prob,
        "leading_dense_block_count": config.first_k_dense_replace,
    }


def _minicpm3(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "attention.key_length": config.qk_nope_head_dim + config.qk_rope_head_dim,
        "attention.value_length": None,
        "attention.kv_lora_rank": config.kv_lora_rank,
        "attention.q_lora_rank": config.q_lora_rank,
        "rope.dimension_count": config.qk_rope_head_dim,
    }


def _latents(config: PreTrainedConfig) -> dict[str, Any]:
    return _mixture(config) | {
        "attention.head_count_kv": 1,
        "attention.key_length": config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": config.kv_lora_rank,
        "attention.key_length_mla": KEY + config.qk_rope_head_dim,
        "attention.value_length_mla": VALUE,
        "attention.kv_lora_rank": config.kv_lora_rank,
        "attention.q_lora_rank": config.q_lora_rank,
        "rope.dimension_count": config.qk_rope_head_dim,
    }


def _deepseek3(config: PreTrainedConfig) -> dict[str, Any]:
    """As for `_latents`; a tenth of the setting, for historical reasons."""
    multiplier = config.rope_parameters["mscale_all_dim"] / 10
    return _latents(config) | yarn(config) | {"expert_gating_func": 2, "rope.scaling.yarn_log_multiplier": multiplier}


def _bailing2(config: PreTrainedConfig) -> dict[str, Any]:
    shared = config.moe_intermediate_size * config.n_shared_experts
    own = {"expert_gating_func": 2, "expert_shared_feed_forward_length": shared}
    return _mixture(config) | rotated_in_part(config) | own


def _keys_and_values(name: str, weight: Tensor) -> dict[str, Tensor]:
    if name == "mlp.gate.e_score_correction_bias":
        return {"exp_probs_b.bias": weight}
    if name != "self_attn.kv_b_proj.weight":
        return {}
    rows = weight.view(-1, KEY + VALUE, weight.shape[-1])  # of each head
    return {"attn_k_b.weight": rows[:, :KEY].transpose(1, 2), "attn_v_b.weight": rows[:, KEY:]}


def _correction(name: str, weight: Tensor) -> dict[str, Tensor]:
    return {"exp_probs_b.bias": weight} if name.endswith(("e_score_correction_bias", "expert_bias")) else {}


def _ernie(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "expert_count": config.moe_num_experts,
        "expert_used_count": config.moe_k,
        "interleave_moe_layer_step": config.moe_layer_interval,
        "leading_dense_block_count": config.moe_layer_start_index,
        "expert_shared_count": config.moe_num_shared_experts,
        "expert_shared_feed_forward_length": config.moe_intermediate_size,
    }


def _minimax_m2(config: PreTrainedConfig) -> dict[str, Any]:
    return rotated_in_part(config) | {"expert_feed_forward_length": config.intermediate_size, "expert_gating_func": 2}


def _afmoe(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "expert_shared_count": config.num_shared_experts,
        "expert_weights_scale": config.route_scale,
        "expert_weights_norm": True,
        "expert_gating_func": 2,
        "leading_dense_block_count": config.num_dense_layers,
        "attention.sliding_window": config.sliding_window,
    }


def _exaone_moe(config: PreTrainedConfig) -> dict[str, Any]:
    return windows(config) | {
        "expert_shared_count": config.num_shared_experts,
        "expert_weights_scale": config.routed_scaling_factor,
        "expert_weights_norm": config.norm_topk_prob,
        "expert_gating_func": 2,
        "leading_dense_block_count": config.first_k_dense_replace,
    }


def _hy_v3(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "expert_shared_feed_forward_length": config.moe_intermediate_size * config.num_shared_experts,
        "expert_weights_scale": config.router_scaling_factor,
        "expert_weights_norm": True,
        "expert_gating_func": 2,
    }


def _unsuffixed_correction(name: str, weight: Tensor) -> dict[str, Tensor]:
    return {"exp_probs_b": weight} if name.endswith("e_score_correction_bias") else {}


def _llama4(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "feed_forward_length": config.intermediate_size_mlp,
        "expert_feed_forward_length": config.intermediate_size,
        "interleave_moe_layer_step": config.interleave_moe_layer_step,
    }


def _llama4_experts(name: str, weight: Tensor) -> dict[str, Tensor]:
    if name == "feed_forward.experts.gate_up_proj":
        gate, up = weight.transpose(1, 2).chunk(2, dim=1)
        return {"ffn_gate_exps.weight": gate, "ffn_up_exps.weight": up}
    return {"ffn_down_exps.weight": weight.transpose(1, 2)} if name == "feed_forward.experts.down_proj" else {}


WRITTEN: Mapping[str, Written] = {
    "minicpm3": Written("minicpm3", LATENTS, _minicpm3),
    "deepseek_v2": Written("deepseek2", SHARED_EXPERTS | LATENTS, _latents, split=_keys_and_values),
    "deepseek_v3": Written("deepseek2", SHARED_EXPERTS | LATENTS, _deepseek3, split=_keys_and_values),
    "glm4_moe": Written(
        "glm4moe",
        SHARED_EXPERTS | {"post_attention_layernorm": "post_attention_norm"},
        lambda config: (
            _mixture(config) | rotated_in_part(config) | {"block_count": config.num_hidden_layers + 1, **PREDICTS}
        ),
        split=_correction,
    ),
    "ernie4_5_moe": Written("ernie4_5-moe", SHARED_EXPERTS, _ernie, split=_correction),
    "dots1": Written("dots1", SHARED_EXPERTS, _mixture, split=_correction),
    "minimax_m2": Written("minimax-m2", entries=_minimax_m2, split=_correction),
    "laguna": Written("laguna", SHARED_EXPERTS | {"self_attn.g_proj": "attn_gate"}, _heads_by_layer, split=_correction),
    "afmoe": Written("afmoe", SHARED_EXPERTS | AFMOE_NAMES, _afmoe, split=_correction),
    "exaone_moe": Written("exaone-moe", SHARED_EXPERTS, _exaone_moe, split=_correction),
    "hy_v3": Written("hy_v3", SHARED_EXPERTS, _hy_v3, split=_unsuffixed_correction),
    "llama4_text": Written("llama4", LLAMA4_NAMES, _llama4, split=_llama4_experts),
    "gpt_oss": Written(
        "gpt-oss",
        {"post_attention_layernorm": "post_attention_norm", "mlp.router": "ffn_gate_inp"},
        _gpt_oss,
        split=_gpt_oss_experts,
    ),
}
BAILING2 = Written("bailingmoe2", SHARED_EXPERTS, _bailing2, split=_correction)
"""A GLM 4.5 under another name."""

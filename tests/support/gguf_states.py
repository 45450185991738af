"""How llama.cpp's converter writes the models whose layers keep states."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import FalconH1Config, PreTrainedConfig, PreTrainedModel

from tests.support.gguf_rules import Written, rotated_in_part

KEY_HEADS, VALUE_HEADS, KEY_WIDTH, VALUE_WIDTH = 2, 6, 8, 12
"""Of linear attention: there are three heads of values for one of keys."""
GROUPS = 2
"""How many groups of heads share what is written to a state space, and what is read."""


def _kv_heads(config: PreTrainedConfig) -> list[int]:
    """Of layers without keys and values it is 0."""
    return [config.num_key_value_heads if kind == "full_attention" else 0 for kind in config.layer_types]


# --- LFM2 -------------------------------------------------------------------------------------------------------------


def _lfm2(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "attention.head_count_kv": _kv_heads(config),
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "shortconv.l_cache": config.conv_L_cache,
    }


def _lfm2_moe(config: PreTrainedConfig) -> dict[str, Any]:
    return _lfm2(config) | {"leading_dense_block_count": config.num_dense_layers, "expert_gating_func": 2}


def _lfm2_weights(name: str, weight: Tensor) -> dict[str, Tensor]:
    match name:
        case "conv.conv.weight":
            return {"shortconv.conv.weight": weight.squeeze(1)}
        case "feed_forward.expert_bias":
            return {"exp_probs_b.bias": weight}
    return {}


LFM2_NAMES = {
    "model.embedding_norm": "token_embd_norm",
    "operator_norm": "attn_norm",
    "self_attn.out_proj": "attn_output",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
    "conv.in_proj": "shortconv.in_proj",
    "conv.out_proj": "shortconv.out_proj",
    "ffn_norm": "ffn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w3": "ffn_up",
    "feed_forward.w2": "ffn_down",
    "feed_forward.gate": "ffn_gate_inp",
}


# --- Qwen3-Next and Qwen 3.5 ------------------------------------------------------------------------------------------


def _linear(config: PreTrainedConfig) -> dict[str, Any]:
    return rotated_in_part(config) | {
        "ssm.conv_kernel": config.linear_conv_kernel_dim,
        "ssm.state_size": config.linear_key_head_dim,
        "ssm.group_count": config.linear_num_key_heads,
        "ssm.time_step_rank": config.linear_num_value_heads,
        "ssm.inner_size": config.linear_num_value_heads * config.linear_value_head_dim,
        "full_attention_interval": 4,
    }


def _qwen35(config: PreTrainedConfig) -> dict[str, Any]:
    return _linear(config) | {"rope.dimension_sections": [11, 11, 10, 0]}


def _listed(config: PreTrainedConfig) -> dict[str, Any]:
    """Which layers keep a state, as a list."""
    return _linear(config) | {"attention.recurrent_layers": [kind != "full_attention" for kind in config.layer_types]}


def _in_turn(weight: Tensor, width: int, dim: int = 0) -> Tensor:
    """The first head of values of every head of keys, then the second of each, and so on."""
    heads = weight.chunk(weight.shape[dim] // width, dim)
    each = VALUE_HEADS // KEY_HEADS
    return torch.cat([head for first in range(each) for head in heads[first::each]], dim)


def _values_in_turn(weight: Tensor) -> Tensor:
    others = 2 * KEY_HEADS * KEY_WIDTH
    return torch.cat([weight[:others], _in_turn(weight[others:], VALUE_WIDTH)])


def _qwen35_weights(name: str, weight: Tensor) -> dict[str, Tensor]:
    match name.removeprefix("linear_attn."):
        case "in_proj_qkv.weight":
            return {"attn_qkv.weight": _values_in_turn(weight)}
        case "in_proj_z.weight":
            return {"attn_gate.weight": _in_turn(weight, VALUE_WIDTH)}
        case "in_proj_b.weight":
            return {"ssm_beta.weight": _in_turn(weight, 1)}
        case "in_proj_a.weight":
            return {"ssm_alpha.weight": _in_turn(weight, 1)}
        case "conv1d.weight":
            return {"ssm_conv1d.weight": _values_in_turn(weight.squeeze(1))}
        case "dt_bias":
            return {"ssm_dt.bias": _in_turn(weight, 1)}
        case "A_log":
            return {"ssm_a": -_in_turn(weight, 1).exp()}
        case "out_proj.weight":
            return {"ssm_out.weight": _in_turn(weight, VALUE_WIDTH, dim=1)}
        case "norm.weight":
            return {"ssm_norm.weight": weight}
    return {}


def _qwen3_next_weights(name: str, weight: Tensor) -> dict[str, Tensor]:
    match name.removeprefix("linear_attn."):
        case "in_proj_qkvz.weight":
            begins = (KEY_WIDTH, 2 * KEY_WIDTH, 2 * KEY_WIDTH + VALUE_HEADS // KEY_HEADS * VALUE_WIDTH)
            parts = list(zip(*(head.tensor_split(begins) for head in weight.chunk(KEY_HEADS)), strict=True))
            queries, keys, values_of_all, gates = (torch.cat(part) for part in parts)
            return {"attn_qkv.weight": torch.cat([queries, keys, values_of_all]), "attn_gate.weight": gates}
        case "in_proj_ba.weight":
            return {"ssm_ba.weight": weight}
        case "conv1d.weight":
            return {"ssm_conv1d.weight": weight.squeeze(1)}
        case "dt_bias":
            return {"ssm_dt.bias": weight}
        case "A_log":
            return {"ssm_a": -weight.exp()}
        case "out_proj.weight":
            return {"ssm_out.weight": weight}
        case "norm.weight":
            return {"ssm_norm.weight": weight}
    return {}


QWEN_NAMES = {"post_attention_layernorm": "post_attention_norm"}


def _qwen(
    name: str,
    entries: Callable[[PreTrainedConfig], dict[str, Any]],
    split: Callable[[str, Tensor], dict[str, Tensor]],
) -> Written:
    return Written(name, QWEN_NAMES, entries, norm_offset=1.0, split=split)


# --- Granite 4, Falcon-H1 and Nemotron-H ------------------------------------------------------------------------------


def _granite_hybrid(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "attention.scale": config.attention_multiplier,
        "embedding_scale": config.embedding_multiplier,
        "residual_scale": config.residual_multiplier,
        "logit_scale": config.logits_scaling,
        "attention.head_count_kv": _kv_heads(config),
        "rope.scaling.finetuned": config.position_embedding_type == "rope",
        "expert_shared_feed_forward_length": config.shared_intermediate_size,
        "ssm.conv_kernel": config.mamba_d_conv,
        "ssm.state_size": config.mamba_d_state,
        "ssm.group_count": config.mamba_n_groups,
        "ssm.inner_size": config.mamba_expand * config.hidden_size,
        "ssm.time_step_rank": config.mamba_n_heads,
    }


def _mamba(name: str, weight: Tensor) -> dict[str, Tensor]:
    match name.split(".", 1):
        case ["mamba" | "mixer", "conv1d.weight"]:
            return {"ssm_conv1d.weight": weight.squeeze(1)}
        case ["mamba" | "mixer", "dt_bias"]:
            return {"ssm_dt.bias": weight}
        case ["mamba" | "mixer", "A_log"]:
            return {"ssm_a": -weight.exp().view(-1, 1)}
        case ["mamba" | "mixer", "D"]:
            return {"ssm_d": weight.view(-1, 1)}
        case ["mamba" | "mixer", "norm.weight"]:
            return {"ssm_norm.weight": weight.view(GROUPS, -1)}
    return {}


def _with_experts(name: str, weight: Tensor) -> dict[str, Tensor]:
    if name != "shared_mlp.input_linear.weight":
        return _mamba(name, weight)
    gate, up = weight.chunk(2)
    return {"ffn_gate_shexp.weight": gate, "ffn_up_shexp.weight": up}


def _without_experts(name: str, weight: Tensor) -> dict[str, Tensor]:
    if name != "shared_mlp.input_linear.weight":
        return _mamba(name, weight)
    gate, up = weight.chunk(2)
    return {"ffn_gate.weight": gate, "ffn_up.weight": up}


def _falcon_h1(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "ssm.conv_kernel": config.mamba_d_conv,
        "ssm.state_size": config.mamba_d_state,
        "ssm.group_count": config.mamba_n_groups,
        "ssm.inner_size": config.mamba_d_ssm,
        "ssm.time_step_rank": config.mamba_n_heads,
    }


def falcon_h1(config: PreTrainedConfig) -> Written:
    """How a model with such multipliers is written, all of which become a part of its weights."""
    inputs = config.ssm_in_multiplier * _of_rows(config)
    attention = config.attention_in_multiplier
    gate, down = config.mlp_multipliers
    factors = {
        "mamba.in_proj.weight": ("ssm_in.weight", inputs),
        "mamba.out_proj.weight": ("ssm_out.weight", config.ssm_out_multiplier),
        "self_attn.q_proj.weight": ("attn_q.weight", attention),
        "self_attn.k_proj.weight": ("attn_k.weight", attention * config.key_multiplier),
        "self_attn.v_proj.weight": ("attn_v.weight", attention),
        "self_attn.o_proj.weight": ("attn_output.weight", config.attention_out_multiplier),
        "feed_forward.gate_proj.weight": ("ffn_gate.weight", gate),
        "feed_forward.down_proj.weight": ("ffn_down.weight", down),
        "pre_ff_layernorm.weight": ("ffn_norm", 1.0),
    }

    def split(name: str, weight: Tensor) -> dict[str, Tensor]:
        if name not in factors:
            return _mamba(name, weight)
        own, factor = factors[name]
        return {own: weight * factor}

    def on_top(model: PreTrainedModel) -> dict[str, Tensor]:
        weights = model.state_dict()
        return {
            "token_embd.weight": weights["model.embed_tokens.weight"] * config.embedding_multiplier,
            "output.weight": weights["lm_head.weight"] * config.lm_head_multiplier,
        }

    return Written("falcon-h1", FALCON_H1_NAMES, _falcon_h1, split=split, extra=on_top)


def _of_rows(config: PreTrainedConfig) -> Tensor:
    """The multiplier of each row of what leads into a state space."""
    inner, shared = config.mamba_d_ssm, config.mamba_n_groups * config.mamba_d_state
    counts = torch.tensor([inner, inner, shared, shared, config.mamba_n_heads])
    return torch.tensor(config.ssm_multipliers).repeat_interleave(counts).view(-1, 1)


def _nemotron_h(config: PreTrainedConfig) -> dict[str, Any]:
    kinds = config.layers_block_type
    return {
        "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        "rope.dimension_count": config.hidden_size // config.num_attention_heads,
        "attention.head_count_kv": [config.num_key_value_heads if kind == "full_attention" else 0 for kind in kinds],
        "feed_forward_length": [config.intermediate_size if kind == "mlp" else 0 for kind in kinds],
        "ssm.conv_kernel": config.conv_kernel,
        "ssm.state_size": config.ssm_state_size,
        "ssm.group_count": config.n_groups,
        "ssm.inner_size": config.mamba_num_heads * config.mamba_head_dim,
        "ssm.time_step_rank": config.mamba_num_heads,
        "expert_count": None,
        "expert_used_count": None,
        "expert_feed_forward_length": None,
    }


def _nemotron_h_moe(config: PreTrainedConfig) -> dict[str, Any]:
    width = config.moe_intermediate_size
    return _nemotron_h(config) | {
        "feed_forward_length": [width if kind == "moe" else 0 for kind in config.layers_block_type],
        "expert_count": config.n_routed_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_feed_forward_length": width,
        "expert_shared_feed_forward_length": config.moe_shared_expert_intermediate_size,
        "expert_shared_count": config.n_shared_experts,
        "expert_weights_norm": config.norm_topk_prob,
        "expert_weights_scale": config.routed_scaling_factor,
        "expert_group_count": config.n_group,
        "expert_group_used_count": config.topk_group,
        "moe_latent_size": config.moe_latent_size,
    }


def _nemotron_experts(name: str, weight: Tensor) -> dict[str, Tensor]:
    match name.removeprefix("mixer."):
        case "experts.up_proj":
            return {"ffn_up_exps.weight": weight}
        case "experts.down_proj":
            return {"ffn_down_exps.weight": weight}
        case "gate.e_score_correction_bias":
            return {"exp_probs_b.bias": weight}
    return _mamba(name, weight)


MAMBA_NAMES = {"mamba.in_proj": "ssm_in", "mamba.conv1d": "ssm_conv1d", "mamba.out_proj": "ssm_out"}
GRANITE_NAMES = MAMBA_NAMES | {
    "block_sparse_moe.router": "ffn_gate_inp",
    "shared_mlp.output_linear": "ffn_down_shexp",
}
FALCON_H1_NAMES = MAMBA_NAMES | {
    "model.embed_tokens": "",
    "lm_head": "",
    "model.final_layernorm": "output_norm",
    "feed_forward.up_proj": "ffn_up",
}
NEMOTRON_NAMES = {
    "model.embeddings": "token_embd",
    "model.norm_f": "output_norm",
    "norm": "attn_norm",
    "mixer.in_proj": "ssm_in",
    "mixer.conv1d": "ssm_conv1d",
    "mixer.out_proj": "ssm_out",
    "mixer.q_proj": "attn_q",
    "mixer.k_proj": "attn_k",
    "mixer.v_proj": "attn_v",
    "mixer.o_proj": "attn_output",
    "mixer.up_proj": "ffn_up",
    "mixer.down_proj": "ffn_down",
    "mixer.gate": "ffn_gate_inp",
    "mixer.shared_experts.up_proj": "ffn_up_shexp",
    "mixer.shared_experts.down_proj": "ffn_down_shexp",
    "mixer.fc1_latent_proj": "ffn_latent_down",
    "mixer.fc2_latent_proj": "ffn_latent_up",
}
NEMOTRON_H_MOE = Written("nemotron_h_moe", NEMOTRON_NAMES, _nemotron_h_moe, is_paired=True, split=_nemotron_experts)
DENSE_GRANITE = Written(
    "granitehybrid",
    MAMBA_NAMES | {"shared_mlp.output_linear": "ffn_down"},
    _granite_hybrid,
    is_paired=True,
    split=_without_experts,
)
WITHOUT_MULTIPLIERS = FalconH1Config(mamba_d_ssm=64, mamba_n_heads=4, mamba_n_groups=GROUPS, mamba_d_state=8)
WRITTEN: Mapping[str, Written] = {
    "falcon_h1": falcon_h1(WITHOUT_MULTIPLIERS),
    "lfm2": Written("lfm2", LFM2_NAMES, _lfm2, split=_lfm2_weights),
    "lfm2_moe": Written("lfm2moe", LFM2_NAMES, _lfm2_moe, split=_lfm2_weights),
    "qwen3_next": _qwen("qwen3next", _listed, _qwen3_next_weights),
    "qwen3_5_text": _qwen("qwen35", _qwen35, _qwen35_weights),
    "qwen3_5_moe_text": _qwen("qwen35moe", _qwen35, _qwen35_weights),
    "nemotron_h": Written("nemotron_h", NEMOTRON_NAMES, _nemotron_h, is_paired=True, split=_mamba),
    "granitemoehybrid": Written("granitehybrid", GRANITE_NAMES, _granite_hybrid, is_paired=True, split=_with_experts),
}

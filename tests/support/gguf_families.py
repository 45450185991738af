"""How llama.cpp's converter writes the models of each family, as `conversion/` in its repository has it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from tests.support.gguf_gemma import WRITTEN as OF_GEMMA
from tests.support.gguf_gpt import WRITTEN as OF_GPT
from tests.support.gguf_rules import Written, rotated_in_part

NORMS_AFTER = {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}


def _windows(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in config.layer_types],
    }


def _granite(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "attention.scale": config.attention_multiplier,
        "embedding_scale": config.embedding_multiplier,
        "residual_scale": config.residual_multiplier,
        "logit_scale": config.logits_scaling,
        "expert_shared_feed_forward_length": getattr(config, "shared_intermediate_size", None),
    }


def _minicpm(config: PreTrainedConfig) -> dict[str, Any]:
    return {key: value for key, value in _granite(config).items() if key != "attention.scale"}


def _granite_shared(name: str, weight: Tensor) -> dict[str, Tensor]:
    if name != "shared_mlp.input_linear.weight":
        return {}
    gate, up = weight.chunk(2)
    return {"ffn_gate_shexp.weight": gate, "ffn_up_shexp.weight": up}


def _ministral3(config: PreTrainedConfig) -> dict[str, Any]:
    rope = config.rope_parameters
    return _yarn(config) | {
        "rope.scaling.yarn_log_multiplier": rope["mscale_all_dim"],
        "attention.temperature_scale": rope["llama_4_scaling_beta"],
    }


def _yarn(config: PreTrainedConfig) -> dict[str, Any]:
    rope = config.rope_parameters
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": rope["factor"],
        "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
        "rope.scaling.yarn_beta_fast": rope["beta_fast"],
        "rope.scaling.yarn_beta_slow": rope["beta_slow"],
    }


def _cohere(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "logit_scale": config.logit_scale,
        "rope.scaling.type": "none",
        "attention.layer_norm_epsilon": config.layer_norm_eps,
    }


def _gpt_oss(config: PreTrainedConfig) -> dict[str, Any]:
    return _yarn(config) | {
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


PREDICTS = {"nextn_predict_layers": 1, "expert_gating_func": 2}
KEY, VALUE = 16, 12
"""The widths, in test models, of a head's keys without what is rotated, and of its values."""


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


def _phimoe(config: PreTrainedConfig) -> dict[str, Any]:
    if config.rope_parameters["rope_type"] == "default":
        return {}
    original = config.rope_parameters["original_max_position_embeddings"]
    return {"rope.scaling.original_context_length": original, "rope.scaling.attn_factor": 1.19}


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
    return _latents(config) | _yarn(config) | {"expert_gating_func": 2, "rope.scaling.yarn_log_multiplier": multiplier}


def _bailing(config: PreTrainedConfig) -> dict[str, Any]:
    """All experts are as wide; two of them for all tokens."""
    return {
        "expert_feed_forward_length": config.intermediate_size,
        "expert_shared_count": config.shared_intermediate_size // config.intermediate_size,
        "expert_weights_scale": 1.0,
        "expert_weights_norm": True,
        "leading_dense_block_count": 0,
    }


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
    return _windows(config) | {
        "expert_shared_count": config.num_shared_experts,
        "expert_weights_scale": config.routed_scaling_factor,
        "expert_weights_norm": config.norm_topk_prob,
        "expert_gating_func": 2,
        "leading_dense_block_count": config.first_k_dense_replace,
    }


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
HUNYUAN_NAMES = {"self_attn.query_layernorm": "attn_q_norm", "self_attn.key_layernorm": "attn_k_norm"}
HUNYUAN_MOE_NAMES = HUNYUAN_NAMES | {
    "mlp.gate.wg": "ffn_gate_inp",
    "mlp.shared_mlp.gate_proj": "ffn_gate_shexp",
    "mlp.shared_mlp.up_proj": "ffn_up_shexp",
    "mlp.shared_mlp.down_proj": "ffn_down_shexp",
}
GRANITE_MOE_NAMES = {"block_sparse_moe.router": "ffn_gate_inp", "shared_mlp.output_linear": "ffn_down_shexp"}
FALCON_NAMES = {
    "transformer.word_embeddings": "token_embd",
    "transformer.ln_f": "output_norm",
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
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
WRITTEN: Mapping[str, Written] = {
    **OF_GEMMA,
    **OF_GPT,
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
    "olmo": Written(
        "olmo",
        entries=lambda config: {"attention.layer_norm_epsilon": 1e-5, "attention.clamp_kqv": config.clip_qkv},
        is_paired=True,
    ),
    "mixtral": Written("llama", is_paired=True),
    "ministral3": Written("mistral3", entries=_ministral3, is_paired=True),
    "smollm3": Written("smollm3", is_paired=True),
    "arcee": Written("arcee", is_paired=True),
    "granite": Written("granite", entries=_granite, is_paired=True),
    "granitemoeshared": Written(
        "granitemoe",
        GRANITE_MOE_NAMES,
        _granite,
        is_paired=True,
        split=_granite_shared,
    ),
    "olmo2": Written("olmo2", NORMS_AFTER),
    "olmo3": Written("olmo2", NORMS_AFTER, lambda config: _windows(config) | {"rope.freq_base": 500_000.0}),
    "olmoe": Written("olmoe"),
    "starcoder2": Written(
        "starcoder2",
        {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"},
        lambda config: {"attention.layer_norm_epsilon": config.norm_epsilon},
    ),
    "stablelm": Written(
        "stablelm",
        entries=lambda config: (
            rotated_in_part(config)
            | {"attention.layer_norm_epsilon": config.layer_norm_eps, "use_parallel_residual": True}
        ),
    ),
    "nemotron": Written(
        "nemotron",
        entries=lambda config: rotated_in_part(config) | {"attention.layer_norm_epsilon": config.norm_eps},
        norm_offset=1.0,
    ),
    "phimoe": Written("phimoe", {"mlp.router": "ffn_gate_inp"}, _phimoe),
    "falcon": Written(
        "falcon",
        FALCON_NAMES,
        lambda config: {
            "attention.head_count_kv": config.num_kv_heads,
            "attention.layer_norm_epsilon": config.layer_norm_epsilon,
            "feed_forward_length": config.ffn_hidden_size,
        },
    ),
    "phi": Written(
        "phi2",
        {
            "model.final_layernorm": "output_norm",
            "self_attn.dense": "attn_output",
            "mlp.fc1": "ffn_up",
            "mlp.fc2": "ffn_down",
        },
        lambda config: rotated_in_part(config) | {"attention.layer_norm_epsilon": config.layer_norm_eps},
    ),
    "glm": Written("chatglm", entries=rotated_in_part),
    "glm4": Written(
        "glm4",
        {"post_self_attn_layernorm": "post_attention_norm", "post_mlp_layernorm": "post_ffw_norm"},
        rotated_in_part,
    ),
    "cohere": Written("command-r", entries=_cohere),
    "cohere2": Written("cohere2", entries=_cohere),
    "ernie4_5": Written("ernie4_5"),
    "seed_oss": Written("seed_oss", {"post_attention_layernorm": "post_attention_norm"}),
    "exaone4": Written("exaone4", NORMS_AFTER, _windows),
    "hunyuan_v1_dense": Written("hunyuan-dense", HUNYUAN_NAMES),
    "hunyuan_v1_moe": Written(
        "hunyuan-moe",
        HUNYUAN_MOE_NAMES,
        lambda config: {
            "expert_used_count": config.moe_topk,
            "expert_shared_count": 1,
            "expert_feed_forward_length": config.intermediate_size,
            "expert_shared_feed_forward_length": config.intermediate_size,
        },
    ),
    "apertus": Written(
        "apertus",
        {"attention_layernorm": "attn_norm", "feedforward_layernorm": "ffn_norm"},
        numbers={f"mlp.act_fn.{name}": f"xielu.{name}" for name in ("alpha_p", "alpha_n", "beta", "eps")},
    ),
    "afmoe": Written("afmoe", SHARED_EXPERTS | AFMOE_NAMES, _afmoe, split=_correction),
    "exaone_moe": Written("exaone-moe", SHARED_EXPERTS, _exaone_moe, split=_correction),
    "llama4_text": Written("llama4", LLAMA4_NAMES, _llama4, split=_llama4_experts),
    "gpt_oss": Written(
        "gpt-oss",
        {"post_attention_layernorm": "post_attention_norm", "mlp.router": "ffn_gate_inp"},
        _gpt_oss,
        split=_gpt_oss_experts,
    ),
}

SECTIONS = {"rope.dimension_sections": [4, 2, 2, 0]}
OTHER_NAMES: Mapping[str, tuple[str, Written]] = {
    "internlm2": ("llama", Written("internlm2", is_paired=True)),
    "xverse": ("llama", Written("xverse", is_paired=True)),
    "baichuan": ("llama", Written("baichuan", is_paired=True)),
    "exaone": ("llama", Written("exaone")),
    "mistral3": ("mistral", Written("mistral3", is_paired=True)),
    "minicpm": ("granite", Written("minicpm", entries=_minicpm, is_paired=True)),
    "bailingmoe": (
        "granitemoeshared",
        Written("bailingmoe", GRANITE_MOE_NAMES, _bailing, is_paired=True, split=_granite_shared),
    ),
    "bailingmoe2": ("glm4_moe", Written("bailingmoe2", SHARED_EXPERTS, _bailing2, split=_correction)),
    "qwen2vl": ("qwen2", Written("qwen2vl", entries=lambda config: SECTIONS)),
    "qwen3vl": ("qwen3", Written("qwen3vl", entries=lambda config: SECTIONS | {"n_deepstack_layers": 3})),
    "qwen3vlmoe": ("qwen3_moe", Written("qwen3vlmoe", entries=lambda config: SECTIONS | {"n_deepstack_layers": 3})),
}
"""Architectures whose models are those of another of transformers' types; texts, at least, are the same."""

"""How llama.cpp's converter writes Gemma 3n and 4."""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from tests.support.gguf_rules import Written

NAMES = {
    "model.embed_tokens_per_layer": "per_layer_token_embd",
    "model.per_layer_model_projection": "per_layer_model_proj",
    "model.per_layer_projection_norm": "per_layer_proj_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "per_layer_input_gate": "inp_gate",
    "per_layer_projection": "proj",
    "post_per_layer_input_norm": "post_norm",
}
OF_GEMMA4 = {
    "router.proj": "ffn_gate_inp",
    "pre_feedforward_layernorm_2": "pre_ffw_norm_2",
    "post_feedforward_layernorm_1": "post_ffw_norm_1",
    "post_feedforward_layernorm_2": "post_ffw_norm_2",
}
OF_GEMMA3N = {
    "altup.correction_coefs": "altup_correct_coef",
    "altup.prediction_coefs": "altup_predict_coef",
    "altup.modality_router": "altup_router",
    "altup.router_norm": "altup_router_norm",
    "laurel.linear_left": "laurel_l",
    "laurel.linear_right": "laurel_r",
    "laurel.post_laurel_norm": "laurel_post_norm",
}
STACKED = ("altup_projections", "altup_unembed_projections")
TURNING = 4
"""How many frequencies of a wide head turn in test models: a quarter."""


def _of_both(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in config.layer_types],
        "attention.shared_kv_layers": config.num_kv_shared_layers,
        "embedding_length_per_layer_input": config.hidden_size_per_layer_input,
        "final_logit_softcapping": config.final_logit_softcapping,
        "rope.freq_base": config.rope_parameters["full_attention"]["rope_theta"],
        "rope.freq_base_swa": config.rope_parameters["sliding_attention"]["rope_theta"],
    }


def _gemma4(config: PreTrainedConfig) -> dict[str, Any]:
    layers = [config.per_layer_config[number] for number in range(config.num_hidden_layers)]
    width, sliding_width = layers[-1].head_dim, layers[0].head_dim
    own_keys = config.num_hidden_layers - config.num_kv_shared_layers
    factors = [2 if config.use_double_wide_mlp and number >= own_keys else 1 for number in range(len(layers))]
    return _of_both(config) | {
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.key_length_swa": sliding_width,
        "attention.value_length_swa": sliding_width,
        "rope.dimension_count": width,
        "rope.dimension_count_swa": sliding_width,
        "attention.head_count_kv": [layer.num_key_value_heads for layer in layers],
        "feed_forward_length": [config.intermediate_size * factor for factor in factors],
        "expert_used_count": config.top_k_experts,
    }


def _split_gemma4(name: str, weight: Tensor) -> dict[str, Tensor]:
    match name:
        case "layer_scalar":
            return {"layer_output_scale.weight": weight}
        case "router.scale":
            return {"ffn_gate_inp.scale": weight}
        case "router.per_expert_scale":
            return {"ffn_down_exps.scale": weight}
        case "experts.gate_up_proj":
            return {"ffn_gate_up_exps.weight": weight}
    return {}


def _turning(model: PreTrainedModel) -> dict[str, Tensor]:
    """Factors for the frequencies of wide heads; those of 1e30 do not turn."""
    count = model.config.per_layer_config[model.config.num_hidden_layers - 1].head_dim // 2
    return {"rope_freqs.weight": torch.tensor([1.0] * TURNING + [1e30] * (count - TURNING))}


def _gemma3n(config: PreTrainedConfig) -> dict[str, Any]:
    scales = [NormalDist().inv_cdf(part) if part else -math.inf for part in config.activation_sparsity_pattern]
    return _of_both(config) | {
        "altup.num_inputs": config.altup_num_inputs,
        "altup.active_idx": config.altup_active_idx,
        "activation_sparsity_scale": scales,
    }


def _split_gemma3n(name: str, weight: Tensor) -> dict[str, Tensor]:
    return {"altup_correct_scale.weight": weight} if name == "altup.correct_output_scale" else {}


def _stacked(model: PreTrainedModel) -> dict[str, Tensor]:
    """Matrices that become one tensor; and keys of a layer that has none of its own, which some checkpoints have."""
    weights = model.state_dict()
    return {
        name.replace("projections", "proj").replace("unembed", "unembd") + ".weight": torch.stack(
            [weights[f"model.{name}.{number}.weight"] for number in range(3)]
        )
        for name in STACKED
    } | {f"blk.{model.config.num_hidden_layers - 1}.attn_k.weight": weights["model.layers.0.self_attn.k_proj.weight"]}


WRITTEN: Mapping[str, Written] = {
    "gemma3n_text": Written(
        "gemma3n",
        NAMES | OF_GEMMA3N | {f"model.{name}.{number}": "" for name in STACKED for number in range(3)},
        _gemma3n,
        split=_split_gemma3n,
        extra=_stacked,
    ),
    "gemma4_text": Written("gemma4", NAMES | OF_GEMMA4, _gemma4, split=_split_gemma4, extra=_turning),
}

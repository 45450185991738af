"""How llama.cpp's converter writes the models of each family, as `conversion/` in its repository has it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from tests.support.gguf_gemma import WRITTEN as OF_GEMMA
from tests.support.gguf_gpt import WRITTEN as OF_GPT
from tests.support.gguf_mixtures import BAILING2, SHARED_EXPERTS
from tests.support.gguf_mixtures import WRITTEN as OF_MIXTURES
from tests.support.gguf_rules import Written, rotated_in_part, thetas, windows, yarn
from tests.support.gguf_states import NEMOTRON_H_MOE
from tests.support.gguf_states import WRITTEN as OF_STATES

NORMS_AFTER = {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}


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
    return yarn(config) | {
        "rope.scaling.yarn_log_multiplier": rope["mscale_all_dim"],
        "attention.temperature_scale": rope["llama_4_scaling_beta"],
    }


def _cohere(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "logit_scale": config.logit_scale,
        "rope.scaling.type": "none",
        "attention.layer_norm_epsilon": config.layer_norm_eps,
    }


def _cohere2_moe(config: PreTrainedConfig) -> dict[str, Any]:
    rms = config.rms_norm_eps
    return (_cohere(config) if rms is None else {"logit_scale": config.logit_scale}) | {
        "feed_forward_length": config.prefix_dense_intermediate_size,
        "expert_feed_forward_length": config.intermediate_size,
        "expert_shared_count": config.num_shared_experts,
        "expert_gating_func": 2 if config.expert_selection_fn == "sigmoid" else 1,
        "expert_weights_norm": config.norm_topk_prob,
        "leading_dense_block_count": config.mlp_layer_types.index("sparse"),
        **windows(config),
    }


def _phimoe(config: PreTrainedConfig) -> dict[str, Any]:
    if config.rope_parameters["rope_type"] == "default":
        return {}
    original = config.rope_parameters["original_max_position_embeddings"]
    return {"rope.scaling.original_context_length": original, "rope.scaling.attn_factor": 1.19}


def _granite_swa(config: PreTrainedConfig) -> dict[str, Any]:
    return _granite(config) | windows(config) | {"attention.rope_pattern": [bool(t) for t in config.layer_rope_theta]}


def _granite_moe_swa(name: str, weight: Tensor) -> dict[str, Tensor]:
    """Gates and ups stay one tensor."""
    experts = {"block_sparse_moe.experts.gate_up_proj": "ffn_gate_up_exps.weight"}
    return {(experts | SINKS)[name]: weight} if name in experts | SINKS else {}


def _sinks(name: str, weight: Tensor) -> dict[str, Tensor]:
    return {SINKS[name]: weight} if name in SINKS else {}


def _dbrx(config: PreTrainedConfig) -> dict[str, Any]:
    return {
        "feed_forward_length": config.ffn_config.ffn_hidden_size,
        "attention.clamp_kqv": config.attn_config.clip_qkv,
        "attention.layer_norm_epsilon": 1e-5,
        "expert_count": config.ffn_config.moe_num_experts,
        "expert_used_count": config.ffn_config.moe_top_k,
    }


def _dbrx_experts(name: str, weight: Tensor) -> dict[str, Tensor]:
    """Each matrix a tensor of its own experts, and those that lead back turned round."""
    of_each = weight.view(4, -1, weight.shape[-1]) if name.startswith("ffn.experts") else weight
    match name.removeprefix("ffn.experts.mlp."):
        case "w1":
            return {"ffn_gate_exps.weight": of_each}
        case "v1":
            return {"ffn_up_exps.weight": of_each}
        case "w2":
            return {"ffn_down_exps.weight": of_each.transpose(1, 2)}
    return {}


def _bailing(config: PreTrainedConfig) -> dict[str, Any]:
    """All experts are as wide; two of them for all tokens."""
    return {
        "expert_feed_forward_length": config.intermediate_size,
        "expert_shared_count": config.shared_intermediate_size // config.intermediate_size,
        "expert_weights_scale": 1.0,
        "expert_weights_norm": True,
        "leading_dense_block_count": 0,
    }


HUNYUAN_NAMES = {"self_attn.query_layernorm": "attn_q_norm", "self_attn.key_layernorm": "attn_k_norm"}
HUNYUAN_MOE_NAMES = HUNYUAN_NAMES | {
    "mlp.gate.wg": "ffn_gate_inp",
    "mlp.shared_mlp.gate_proj": "ffn_gate_shexp",
    "mlp.shared_mlp.up_proj": "ffn_up_shexp",
    "mlp.shared_mlp.down_proj": "ffn_down_shexp",
}


def _starcoder2(name: str) -> Written:
    names = {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    return Written(name, names, lambda config: {"attention.layer_norm_epsilon": config.norm_epsilon})


GRANITE_MOE_NAMES = {"block_sparse_moe.router": "ffn_gate_inp", "shared_mlp.output_linear": "ffn_down_shexp"}
SINKS = {"self_attn.sinks": "attn_sinks.weight"}
GRANITE_SWA_NAMES = GRANITE_MOE_NAMES | {"shared_mlp.input_linear": "ffn_up_shexp"}
DBRX_NAMES = {
    "transformer.wte": "token_embd",
    "transformer.norm_f": "output_norm",
    "norm_attn_norm.norm_1": "attn_norm",
    "norm_attn_norm.norm_2": "attn_output_norm",
    "norm_attn_norm.attn.Wqkv": "attn_qkv",
    "norm_attn_norm.attn.out_proj": "attn_output",
    "ffn.router.layer": "ffn_gate_inp",
}
FALCON_NAMES = {
    "transformer.word_embeddings": "token_embd",
    "transformer.ln_f": "output_norm",
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
WRITTEN: Mapping[str, Written] = {
    **OF_GEMMA,
    **OF_GPT,
    **OF_MIXTURES,
    **OF_STATES,
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
    "granite_swa": Written("granite_swa", {}, _granite_swa, is_paired=True, split=_sinks),
    "granitemoe_swa": Written("granite_swa", GRANITE_SWA_NAMES, _granite_swa, is_paired=True, split=_granite_moe_swa),
    "dbrx": Written("dbrx", DBRX_NAMES, _dbrx, split=_dbrx_experts),
    "jais2": Written("jais2", entries=lambda config: {"attention.layer_norm_epsilon": config.layer_norm_eps}),
    "olmo2": Written("olmo2", NORMS_AFTER),
    "olmo3": Written("olmo2", NORMS_AFTER, lambda config: windows(config) | {"rope.freq_base": 500_000.0}),
    "olmoe": Written("olmoe"),
    "starcoder2": _starcoder2("starcoder2"),
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
    "cohere2_moe": Written("cohere2moe", SHARED_EXPERTS, _cohere2_moe),
    "mellum": Written("mellum", entries=lambda config: windows(config) | thetas(config)),
    "ernie4_5": Written("ernie4_5"),
    "seed_oss": Written("seed_oss", {"post_attention_layernorm": "post_attention_norm"}),
    "exaone4": Written("exaone4", NORMS_AFTER, windows),
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
}

ORION = Written("orion", entries=lambda config: {"attention.layer_norm_epsilon": config.layer_norm_eps})
QWEN = Written("qwen", entries=lambda config: {"feed_forward_length": 2 * config.intermediate_size})
SECTIONS = {"rope.dimension_sections": [4, 2, 2, 0]}
OTHER_NAMES: Mapping[str, tuple[str, Written]] = {
    "internlm2": ("llama", Written("internlm2", is_paired=True)),
    "xverse": ("llama", Written("xverse", is_paired=True)),
    "baichuan": ("llama", Written("baichuan", is_paired=True)),
    "exaone": ("llama", Written("exaone")),
    "mistral3": ("mistral", Written("mistral3", is_paired=True)),
    "codeshell": ("starcoder2", _starcoder2("codeshell")),
    "qwen": ("qwen2", QWEN),
    "orion": ("stablelm", ORION),
    "pangu-embedded": ("llama", Written("pangu-embedded")),
    "paddleocr": ("llama", Written("paddleocr", entries=lambda config: SECTIONS)),
    "hunyuan_vl": ("hunyuan_v1_dense", Written("hunyuan_vl", HUNYUAN_NAMES, lambda config: SECTIONS)),
    "maincoder": ("hunyuan_v1_dense", Written("maincoder", HUNYUAN_NAMES, is_paired=True)),
    "minicpm": ("granite", Written("minicpm", entries=_minicpm, is_paired=True)),
    "bailingmoe": (
        "granitemoeshared",
        Written("bailingmoe", GRANITE_MOE_NAMES, _bailing, is_paired=True, split=_granite_shared),
    ),
    "bailingmoe2": ("glm4_moe", BAILING2),
    "nemotron_h_moe": ("nemotron_h", NEMOTRON_H_MOE),
    "qwen2vl": ("qwen2", Written("qwen2vl", entries=lambda config: SECTIONS)),
    "qwen3vl": ("qwen3", Written("qwen3vl", entries=lambda config: SECTIONS | {"n_deepstack_layers": 3})),
    "qwen3vlmoe": ("qwen3_moe", Written("qwen3vlmoe", entries=lambda config: SECTIONS | {"n_deepstack_layers": 3})),
}
"""Architectures whose models are those of another of transformers' types; texts, at least, are the same."""

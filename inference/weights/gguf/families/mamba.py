"""Models with state spaces (Mamba 2): Granite 4, Falcon-H1 and Nemotron-H.

Bamba has the same name as Granite 4 in files, and a rotary embedding.
"""

from typing import Any

from inference.weights.gguf.architecture import (
    LAYER,
    LAYER_NORM_EPSILON,
    MLP,
    QKVO,
    TOP,
    Architecture,
    Made,
    as_it_is,
    joined_rows,
)
from inference.weights.gguf.families.llama import (
    GRANITE_KEYS,
    GRANITE_MOE,
    GRANITE_MOE_LAYER,
    OF_EXPERTS,
    granite_scales,
    is_rotated,
)
from inference.weights.gguf.families.mixtures import CORRECTION, SIGMOID, check_gating
from inference.weights.gguf.families.states import OF_STATES, decays, flat, kernels
from inference.weights.gguf.file import BadGGUF, GGUFFile
from inference.weights.gguf.heads import attends, has_experts


def _inner_size(file: GGUFFile, of: int = 1, of_key: str = "") -> int:
    """The width of a state space's heads together.

    Raises:
        BadGGUF: it cannot be shared by its heads, or in groups, or is no multiple of `of`.
    """
    inner = file.count("ssm.inner_size")
    parts = {key: file.count(key) for key in ("ssm.time_step_rank", "ssm.group_count")} | (
        {of_key: of} if of_key else {}
    )
    for key, count in parts.items():
        if inner % count:
            raise BadGGUF(
                file.path, f"{file.architecture}.ssm.inner_size is {inner}; expected a multiple of {key}, {count}"
            )
    return inner


def _mamba(file: GGUFFile, inner: int) -> dict[str, Any]:
    heads = file.count("ssm.time_step_rank")
    return {
        "mamba_n_heads": heads,
        "mamba_d_head": inner // heads,
        "mamba_n_groups": file.count("ssm.group_count"),
        "mamba_d_state": file.count("ssm.state_size"),
        "mamba_d_conv": file.count("ssm.conv_kernel"),
        "mamba_conv_bias": file.has_in_layers(CONV_BIAS),
    }


def _granite_hybrid(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Without experts, the MLP that they would share is the only one."""
    inner = _inner_size(file, common["hidden_size"], "embedding_length")
    return (
        granite_scales(file, common)
        | _mamba(file, inner)
        | {
            "layer_types": ["full_attention" if has_keys else "linear_attention" for has_keys in attends(file)],
            "position_embedding_type": "rope" if is_rotated(file) else None,
            "shared_intermediate_size": file.count("expert_shared_feed_forward_length", common["intermediate_size"]),
            "num_local_experts": file.count("expert_count") if has_experts(file) else 0,
            "num_experts_per_tok": file.count("expert_used_count") if has_experts(file) else 0,
            "mamba_expand": inner // common["hidden_size"],
        }
    )


def _falcon_h1(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """All multipliers are in the weights."""
    inner = _inner_size(file)
    return _mamba(file, inner) | {
        "mamba_d_ssm": inner,
        "mamba_rms_norm": file.has_in_layers("ssm_norm.weight"),
        "mamba_norm_before_gate": False,
    }


def _nemotron_h(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Each layer has one part: attention, a state space, or an MLP."""
    mlp = "moe" if has_experts(file) else "mlp"
    widths = file.counts("feed_forward_length", least=0)
    kinds = [
        "full_attention" if has_keys else mlp if width else "linear_attention"
        for has_keys, width in zip(attends(file), widths, strict=True)
    ]
    heads = file.count("ssm.time_step_rank")
    return {
        "layers_block_type": kinds[: common["num_hidden_layers"]],
        "mamba_num_heads": heads,
        "mamba_head_dim": _inner_size(file) // heads,
        "n_groups": file.count("ssm.group_count"),
        "ssm_state_size": file.count("ssm.state_size"),
        "conv_kernel": file.count("ssm.conv_kernel"),
        "use_conv_bias": file.has_in_layers(CONV_BIAS),
    }


def _nemotron_h_moe(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    check_gating(file, SIGMOID)
    name = file.architecture
    return _nemotron_h(file, common) | {
        "n_routed_experts": file.count("expert_count"),
        "num_experts_per_tok": file.count("expert_used_count"),
        "n_shared_experts": file.count("expert_shared_count", 1),
        "moe_intermediate_size": file.count("expert_feed_forward_length"),
        "moe_shared_expert_intermediate_size": file.count("expert_shared_feed_forward_length"),
        "moe_latent_size": file.count("moe_latent_size") if file.says("moe_latent_size") else None,
        "n_group": file.count("expert_group_count", 1),
        "topk_group": file.count("expert_group_used_count", 1),
        "norm_topk_prob": file.get(f"{name}.expert_weights_norm", bool, False),
        "routed_scaling_factor": file.get(f"{name}.expert_weights_scale", float, 1.0) or 1.0,
    }


def _mixer(place: str) -> tuple[Made, ...]:
    """The weights of a state space that files have in another form."""
    return (
        Made(f"{place}.conv1d.weight", ("ssm_conv1d.weight",), kernels),
        Made(f"{place}.dt_bias", ("ssm_dt.bias",), as_it_is),
        Made(f"{place}.A_log", ("ssm_a",), decays),
        Made(f"{place}.D", ("ssm_d",), flat),
        Made(f"{place}.norm.weight", ("ssm_norm.weight",), flat),
    )


CONV_BIAS = "ssm_conv1d.bias"
MAMBA = {"ssm_in": "mamba.in_proj", "ssm_conv1d": "mamba.conv1d", "ssm_out": "mamba.out_proj"}
DENSE_GRANITE = (
    Made("shared_mlp.input_linear.weight", ("ffn_gate.weight", "ffn_up.weight"), joined_rows),
    Made("shared_mlp.output_linear.weight", ("ffn_down.weight",), as_it_is),
)
FALCON_H1 = {
    "ffn_norm": "pre_ff_layernorm",
    "ffn_gate": "feed_forward.gate_proj",
    "ffn_up": "feed_forward.up_proj",
    "ffn_down": "feed_forward.down_proj",
}
NEMOTRON_H = {
    "attn_norm": "norm",
    "attn_q": "mixer.q_proj",
    "attn_k": "mixer.k_proj",
    "attn_v": "mixer.v_proj",
    "attn_output": "mixer.o_proj",
    "ssm_in": "mixer.in_proj",
    "ssm_conv1d": "mixer.conv1d",
    "ssm_out": "mixer.out_proj",
    "ffn_up": "mixer.up_proj",
    "ffn_down": "mixer.down_proj",
}
NEMOTRON_EXPERTS = {
    "ffn_gate_inp": "mixer.gate",
    "ffn_up_shexp": "mixer.shared_experts.up_proj",
    "ffn_down_shexp": "mixer.shared_experts.down_proj",
    "ffn_latent_down": "mixer.fc1_latent_proj",
    "ffn_latent_up": "mixer.fc2_latent_proj",
}
NEMOTRON_TOP = {"token_embd": "model.embeddings", "output_norm": "model.norm_f", "output": "lm_head"}
NEMOTRON_EPSILON = (LAYER_NORM_EPSILON, "layer_norm_epsilon")
"""Of Nemotron-H, which rotates nothing. Its files may say that less than a head is rotated."""
OF_NEMOTRON_EXPERTS = OF_EXPERTS | {
    *("expert_shared_count", "expert_feed_forward_length", "expert_shared_feed_forward_length", "moe_latent_size"),
    *("expert_group_count", "expert_group_used_count", "expert_gating_func", "expert_weights_norm"),
    *("expert_weights_scale", "nextn_predict_layers"),
}
FAMILY = {
    "granitehybrid": Architecture(
        "granitemoehybrid",
        _granite_hybrid,
        GRANITE_KEYS | OF_EXPERTS,
        GRANITE_MOE_LAYER | MAMBA,
        made=(*DENSE_GRANITE, *GRANITE_MOE, *_mixer("mamba")),
        keeps_states=True,
        has_paired_rows=True,
        biases={"attention_bias": QKVO},
    ),
    "falcon-h1": Architecture(
        "falcon_h1",
        _falcon_h1,
        OF_STATES,
        LAYER | FALCON_H1 | MAMBA,
        TOP | {"output_norm": "model.final_layernorm"},
        made=(*_mixer("mamba"), Made("pre_ff_layernorm.weight", ("ffn_norm",), as_it_is)),
        biases={"attention_bias": QKVO, "mlp_bias": MLP},
    ),
    "nemotron_h": Architecture(
        "nemotron_h",
        _nemotron_h,
        OF_STATES,
        NEMOTRON_H,
        NEMOTRON_TOP,
        made=_mixer("mixer"),
        keeps_states=True,
        has_paired_rows=True,
        rotates_in_part=True,
        epsilon=NEMOTRON_EPSILON,
    ),
    "nemotron_h_moe": Architecture(
        "nemotron_h",
        _nemotron_h_moe,
        OF_STATES | OF_NEMOTRON_EXPERTS,
        NEMOTRON_H | NEMOTRON_EXPERTS,
        NEMOTRON_TOP,
        made=(
            *_mixer("mixer"),
            Made("mixer.experts.up_proj", ("ffn_up_exps.weight",), as_it_is),
            Made("mixer.experts.down_proj", ("ffn_down_exps.weight",), as_it_is),
            Made("mixer.gate.e_score_correction_bias", (CORRECTION,), as_it_is),
        ),
        keeps_states=True,
        has_paired_rows=True,
        rotates_in_part=True,
        epsilon=NEMOTRON_EPSILON,
    ),
}

"""Configurations of small models whose layers keep states."""

from typing import Any

from transformers import (
    FalconH1Config,
    GraniteMoeHybridConfig,
    Lfm2Config,
    Lfm2MoeConfig,
    NemotronHConfig,
    PreTrainedConfig,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3NextConfig,
)

from tests.support.gguf_states import GROUPS, KEY_HEADS, KEY_WIDTH, VALUE_HEADS, VALUE_WIDTH
from tests.support.tiny_models import NO_ENDS, SHAPE

SIZES: dict[str, Any] = {
    **SHAPE,
    **NO_ENDS,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "tie_word_embeddings": False,
}
CONVOLUTIONS: dict[str, Any] = {"layer_types": ["conv", "full_attention", "conv", "conv"], "conv_L_cache": 3}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR: dict[str, Any] = {
    "head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "linear_num_key_heads": KEY_HEADS,
    "linear_num_value_heads": VALUE_HEADS,
    "linear_key_head_dim": KEY_WIDTH,
    "linear_value_head_dim": VALUE_WIDTH,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
}
SHARED: dict[str, Any] = EXPERTS | {"shared_expert_intermediate_size": 24}
STATE_SPACE: dict[str, Any] = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": GROUPS,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
}
FALCON: dict[str, Any] = {
    "head_dim": 16,
    "mamba_d_ssm": 64,
    "mamba_rms_norm": True,
    "mamba_norm_before_gate": False,
}
MAMBA: dict[str, Any] = STATE_SPACE | {
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"],
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.2,
    "logits_scaling": 2.0,
}
LAST_TWO_ATTEND = ["linear_attention", "linear_attention", "full_attention", "full_attention"]
FAMILIES: list[PreTrainedConfig] = [
    Lfm2Config(**SIZES, **CONVOLUTIONS, block_auto_adjust_ff_dim=False),
    Lfm2MoeConfig(**SIZES, **CONVOLUTIONS, **EXPERTS, num_dense_layers=1),
    Qwen3NextConfig(**SIZES, **LINEAR, **SHARED, layer_types=LAST_TWO_ATTEND),
    Qwen3_5TextConfig(**SIZES, **LINEAR),
    Qwen3_5MoeTextConfig(**{key: SIZES[key] for key in SIZES if key != "intermediate_size"}, **LINEAR, **SHARED),
    FalconH1Config(**SIZES, **STATE_SPACE, **FALCON),
    NemotronHConfig(
        **{key: SIZES[key] for key in SIZES if key != "num_hidden_layers"},
        layers_block_type=["linear_attention", "mlp", "full_attention", "linear_attention", "mlp"],
        head_dim=16,
        mamba_num_heads=4,
        mamba_head_dim=16,
        ssm_state_size=8,
        n_groups=GROUPS,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        moe_shared_expert_intermediate_size=64,
        moe_latent_size=16,
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
    ),
    GraniteMoeHybridConfig(**SIZES, **MAMBA, num_local_experts=4, num_experts_per_tok=2, shared_intermediate_size=24),
]
DENSE_GRANITE = GraniteMoeHybridConfig(
    **SIZES, **MAMBA, num_local_experts=0, num_experts_per_tok=0, shared_intermediate_size=64
)
"""Its files have the MLP that experts would share under other names."""
NEMOTRON_H_MOE: dict[str, Any] = {
    "layers_block_type": ["linear_attention", "moe", "full_attention", "moe", "linear_attention"]
}
"""What one with experts has otherwise."""

"""Configurations of small models for each architecture that is served from GGUF files."""

from typing import Any

import torch
from transformers import (
    AfmoeConfig,
    ApertusConfig,
    ArceeConfig,
    Cohere2Config,
    Cohere2MoeConfig,
    CohereConfig,
    DbrxConfig,
    DeepseekV2Config,
    DeepseekV3Config,
    Dots1Config,
    Ernie4_5_MoeConfig,
    Ernie4_5Config,
    Exaone4Config,
    ExaoneMoeConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GemmaConfig,
    Glm4Config,
    Glm4MoeConfig,
    GlmConfig,
    GPT2Config,
    GPTBigCodeConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeSharedConfig,
    GraniteMoeSWAConfig,
    GraniteSWAConfig,
    HunYuanDenseV1Config,
    HunYuanMoEV1Config,
    HYV3Config,
    Jais2Config,
    LagunaConfig,
    Llama4TextConfig,
    LlamaConfig,
    MellumConfig,
    MiniCPM3Config,
    MiniMaxM2Config,
    Ministral3Config,
    MistralConfig,
    MixtralConfig,
    NemotronConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    OlmoeConfig,
    Phi3Config,
    PhiConfig,
    PhimoeConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SeedOssConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)

from tests.support import tiny_models
from tests.support.gguf_mixtures import KEY, VALUE
from tests.support.gguf_state_models import FAMILIES as OF_STATES
from tests.support.gguf_state_models import NEMOTRON_H_MOE
from tests.support.tiny_models import NO_ENDS, WINDOW, model_of

SIZES = {"num_key_value_heads": 2, "intermediate_size": 64, "tie_word_embeddings": False}
SHAPE: dict[str, Any] = tiny_models.SHAPE | NO_ENDS | SIZES
TIED: dict[str, Any] = SHAPE | {"tie_word_embeddings": True, "head_dim": 16}
WIDE: dict[str, Any] = {"head_dim": 16}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "mistral": MistralConfig(**SHAPE, head_dim=16, sliding_window=WINDOW),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "qwen2moe": Qwen2MoeConfig(**SHAPE, **EXPERTS, shared_expert_intermediate_size=32),
    "qwen3moe": Qwen3MoeConfig(**SHAPE, **EXPERTS, **WIDE, norm_topk_prob=True),
    "gemma": GemmaConfig(**TIED),
    "gemma2": Gemma2Config(**TIED, sliding_window=WINDOW, query_pre_attn_scalar=16),
    "gemma3": Gemma3TextConfig(**TIED, sliding_window=WINDOW, query_pre_attn_scalar=16),
    "phi3": Phi3Config(**SHAPE),
}
"""By the names in their files."""

OF_FOUR: dict[str, Any] = {
    **tiny_models.SHAPE,
    **NO_ENDS,
    "num_hidden_layers": 4,  # so that some layer in four is another
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "tie_word_embeddings": False,
}
WHOLE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
HALF: dict[str, Any] = {"partial_rotary_factor": 0.5}
SCALES: dict[str, Any] = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.2,
    "logits_scaling": 2.0,
}
LOCAL_EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 8,  # so that a prompt goes beyond
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
QUERIES: dict[str, Any] = {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.3}
MIXTURE: dict[str, Any] = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
LATENTS: dict[str, Any] = {
    "kv_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": KEY,
    "v_head_dim": VALUE,
}
OF_LATENTS = OF_FOUR | MIXTURE | LATENTS | {"num_key_value_heads": 4}
IN_GROUPS: dict[str, Any] = {"n_group": 4, "topk_group": 2, "q_lora_rank": 20}
SCALED: dict[str, Any] = YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}
ERNIE: dict[str, Any] = {
    "head_dim": 16,
    "moe_num_experts": 4,
    "moe_k": 2,
    "moe_intermediate_size": 24,
    "moe_num_shared_experts": 1,
    "moe_layer_start_index": 1,
}
GPT: dict[str, Any] = NO_ENDS | {
    "vocab_size": tiny_models.VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_inner": 48,
    "n_positions": tiny_models.CONTEXT,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
MOE: dict[str, Any] = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 24}
EVERY_OTHER = ["sliding_attention", "full_attention"]
GEMMA: dict[str, Any] = OF_FOUR | {"head_dim": 16, "sliding_window": WINDOW, "final_logit_softcapping": 30.0}
GEMMA4: dict[str, Any] = GEMMA | {"global_head_dim": 32}
NO_INPUTS: dict[str, Any] = {
    "layer_types": [*EVERY_OTHER, *EVERY_OTHER],
    "hidden_size_per_layer_input": 0,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 1,
}
INPUTS: dict[str, Any] = {
    "num_hidden_layers": 6,
    "layer_types": EVERY_OTHER * 3,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": tiny_models.VOCABULARY,
    "num_kv_shared_layers": 2,
}
OF_KINDS: dict[str, Any] = OF_FOUR | EXPERTS | WIDE | {"sliding_window": WINDOW}
LAST_IS_FULL = ["sliding_attention"] * 3 + ["full_attention"]
FIRST_IS_FULL = LAST_IS_FULL[::-1]
TURNS: dict[str, Any] = {
    "full_attention": {"rope_type": "default", "rope_theta": 500_000.0, "partial_rotary_factor": 0.5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
}
SWASH: dict[str, Any] = {
    "sliding_window": WINDOW,
    "layer_types": FIRST_IS_FULL,
    "layer_rope_theta": [0.0, *[10_000.0] * 3],
}
DENSE_FIRST = ["dense", "sparse", "sparse", "sparse"]
NORTH: dict[str, Any] = {key: value for key, value in OF_KINDS.items() if key != "moe_intermediate_size"} | {
    "tie_word_embeddings": True,
    "logit_scale": 0.5,
    "layer_types": LAST_IS_FULL,
    "mlp_layer_types": DENSE_FIRST,
    "prefix_dense_intermediate_size": 48,
}
FAMILIES: list[PreTrainedConfig] = [
    *OF_STATES,
    DeepseekV2Config(**OF_LATENTS, q_lora_rank=None, topk_method="greedy"),
    DeepseekV3Config(**OF_LATENTS | IN_GROUPS, rope_parameters=SCALED),
    MiniCPM3Config(**OF_FOUR | LATENTS | {"num_key_value_heads": 4}, q_lora_rank=20),
    Glm4MoeConfig(**OF_FOUR, **MIXTURE, **HALF, **WIDE, attention_bias=True, use_qk_norm=True),
    Ernie4_5_MoeConfig(**OF_FOUR, **ERNIE),
    Gemma3nTextConfig(
        **GEMMA | INPUTS | {"intermediate_size": [48] * 6, "activation_sparsity_pattern": [0.95, 0.9] + [0.0] * 4},
        laurel_rank=8,
    ),
    Gemma4TextConfig(**GEMMA4, **NO_INPUTS),
    Gemma4TextConfig(**GEMMA4 | INPUTS, use_double_wide_mlp=True),
    Gemma4TextConfig(**GEMMA4, **NO_INPUTS, **MOE),
    Dots1Config(**OF_FOUR, **MIXTURE, **WIDE, sliding_window=None),
    MiniMaxM2Config(**OF_FOUR, **LOCAL_EXPERTS, **WIDE, rope_parameters={"rope_theta": 5e6, **HALF}),
    GPT2Config(**GPT),
    GPTBigCodeConfig(**GPT),
    GPTNeoXConfig(**OF_FOUR, use_parallel_residual=False, rope_parameters={"rope_theta": 10_000.0, **HALF}),
    OlmoConfig(**OF_FOUR, clip_qkv=0.5),
    MixtralConfig(**OF_FOUR, **LOCAL_EXPERTS),
    Ministral3Config(**OF_FOUR, head_dim=16, rope_parameters=YARN | QUERIES),
    SmolLM3Config(**OF_FOUR),
    ArceeConfig(**OF_FOUR),
    GraniteConfig(**OF_FOUR, **SCALES),
    GraniteSWAConfig(**OF_FOUR, **SCALES, **SWASH),
    GraniteMoeSWAConfig(**OF_FOUR, **SCALES, **SWASH, **LOCAL_EXPERTS, shared_intermediate_size=24),
    GraniteMoeSharedConfig(**OF_FOUR, **SCALES, **LOCAL_EXPERTS, shared_intermediate_size=24),
    Olmo2Config(**OF_FOUR),
    Olmo3Config(**OF_FOUR, sliding_window=WINDOW),
    OlmoeConfig(**OF_FOUR, num_experts=4, num_experts_per_tok=2),
    Starcoder2Config(**OF_FOUR),
    Jais2Config(**OF_FOUR),
    DbrxConfig(
        **NO_ENDS,
        vocab_size=tiny_models.VOCABULARY,
        d_model=32,
        n_layers=3,
        n_heads=4,
        max_seq_len=tiny_models.CONTEXT,
        initializer_range=0.2,
        attn_config={"kv_n_heads": 2, "clip_qkv": 0.5, "rope_theta": 10_000.0},
        ffn_config={"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
    ),
    StableLmConfig(**OF_FOUR, **HALF, use_qkv_bias=True),
    NemotronConfig(**OF_FOUR, **HALF),
    PhiConfig(**OF_FOUR, **HALF),
    PhimoeConfig(**OF_FOUR, **LOCAL_EXPERTS, attention_bias=True, lm_head_bias=True),
    GlmConfig(**OF_FOUR, **HALF, head_dim=16, attention_bias=True),
    Glm4Config(**OF_FOUR, **HALF, head_dim=16, attention_bias=False),
    CohereConfig(**OF_FOUR | {"tie_word_embeddings": True}, logit_scale=0.5, use_qk_norm=True),
    Cohere2Config(**OF_FOUR | {"tie_word_embeddings": True}, logit_scale=0.5, sliding_window=WINDOW),
    Cohere2MoeConfig(**NORTH, num_shared_experts=1, expert_selection_fn="sigmoid"),
    Cohere2MoeConfig(**NORTH, num_shared_experts=2, rms_norm_eps=1e-5),
    MellumConfig(
        **OF_KINDS,
        layer_types=LAST_IS_FULL,
        rope_parameters={kind: {"rope_type": "default", "rope_theta": TURNS[kind]["rope_theta"]} for kind in TURNS},
    ),
    LagunaConfig(
        **OF_KINDS,
        layer_types=FIRST_IS_FULL,
        num_attention_heads_per_layer=[4, 8, 8, 8],
        shared_expert_intermediate_size=24,
        rope_parameters=TURNS,
        moe_routed_scaling_factor=2.5,
    ),
    LagunaConfig(
        **OF_KINDS,
        layer_types=FIRST_IS_FULL,
        gating="per-element",
        shared_expert_intermediate_size=24,
        rope_parameters=TURNS,
    ),
    Ernie4_5Config(**OF_FOUR, head_dim=16),
    SeedOssConfig(**OF_FOUR, head_dim=16, attention_bias=True, attention_out_bias=False),
    Exaone4Config(**OF_FOUR, sliding_window=WINDOW, sliding_window_pattern=4),
    HunYuanDenseV1Config(**OF_FOUR, head_dim=16),
    HunYuanMoEV1Config(**OF_FOUR, head_dim=16, num_experts=4, moe_topk=2),
    ApertusConfig(**OF_FOUR, rope_parameters={"rope_theta": 12e6}),
    AfmoeConfig(**OF_FOUR, **EXPERTS, **WIDE, sliding_window=WINDOW, mup_enabled=True, route_scale=1.5),
    ExaoneMoeConfig(**OF_FOUR, **EXPERTS, **WIDE, sliding_window=WINDOW),
    HYV3Config(**OF_FOUR, **EXPERTS, **WIDE, num_shared_experts=2, router_scaling_factor=2.5),
    Llama4TextConfig(
        **OF_FOUR | {"num_experts_per_tok": 1, "num_local_experts": 4},
        intermediate_size_mlp=40,
        interleave_moe_layer_step=2,
        **WIDE,
    ),
    GptOssConfig(
        **OF_FOUR, **LOCAL_EXPERTS, head_dim=16, sliding_window=WINDOW, rope_parameters=YARN | {"truncate": False}
    ),
]
"""Those that are written by the rules in `gguf_families`."""
FALCON = FalconConfig(**OF_FOUR | {"num_key_value_heads": None, "num_kv_heads": 1})
"""Of 7B, whose file is read as another of transformers' models."""
CHANGED: dict[str, dict[str, Any]] = {
    "orion": {"use_qkv_bias": False, "rope_parameters": WHOLE},
    "pangu-embedded": {"attention_bias": True},
    "minicpm": {"attention_multiplier": 8**-0.5},  # of a head's width
    "baichuan": {"num_hidden_layers": 32},
    "bailingmoe": dict.fromkeys(SCALES, 1.0) | {"attention_multiplier": 8**-0.5, "shared_intermediate_size": 128},
    "bailingmoe2": {"attention_bias": False},
    "nemotron_h_moe": NEMOTRON_H_MOE,
}
"""What models under `OTHER_NAMES` have otherwise than those of the same type in `FAMILIES`."""


def model_with_norms(config: PreTrainedConfig) -> PreTrainedModel:
    """A random model whose norms and biases are random too: what is left at 0 or 1 shows no mistake."""
    model = model_of(config)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) / 4)
    return model

"""GGUF files of the models of the Llama type, as small as they can be quantized."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeSharedConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from tests.support import tiny_models
from tests.support.gguf_files import write_gguf
from tests.support.tiny_models import NO_ENDS, bpe_tokenizer, model_of

SHAPE: dict[str, Any] = {
    **tiny_models.SHAPE,
    **NO_ENDS,
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "tie_word_embeddings": False,
}
TIED: dict[str, Any] = {"tie_word_embeddings": True}
GRANITE_SCALES: dict[str, Any] = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.15,
    "logits_scaling": 8.0,
}
IN_PART: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
EXPERTS: dict[str, Any] = {"num_local_experts": 5, "num_experts_per_tok": 2}
QWEN2 = {name: size for name, size in SHAPE.items() if name != "head_dim"}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "llama, tied": LlamaConfig(**SHAPE | {"tie_word_embeddings": True}),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": Qwen2Config(**QWEN2),
    "qwen3": Qwen3Config(**SHAPE),
    "gemma": GemmaConfig(**SHAPE | TIED),
    "gemma3": Gemma3TextConfig(
        **SHAPE | TIED,
        sliding_window=20,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "gemma2": Gemma2Config(**SHAPE | TIED, sliding_window=20, query_pre_attn_scalar=16),
    "granite": GraniteConfig(**SHAPE, **GRANITE_SCALES),
    "phi3": Phi3Config(**QWEN2, sliding_window=20),
    "phi3, in part": Phi3Config(**QWEN2, rope_parameters=IN_PART),
    "smollm3": SmolLM3Config(**SHAPE | {"num_hidden_layers": 4}),
    "llama, biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "gpt-oss": GptOssConfig(**SHAPE, **EXPERTS, sliding_window=20),
    "mixtral": MixtralConfig(**SHAPE, **EXPERTS),
    "qwen3 moe": Qwen3MoeConfig(**SHAPE, **EXPERTS, moe_intermediate_size=32, norm_topk_prob=True),
    "granite moe": GraniteMoeSharedConfig(**QWEN2, **EXPERTS, **GRANITE_SCALES, shared_intermediate_size=0),
}


def written(folder: Path, name: str, kind: str) -> Path:
    model = model_of(CONFIGS[name])
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) / 4)
    return write_gguf(folder / "model.gguf", model, bpe_tokenizer(), kind)

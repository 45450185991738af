"""Models that the decoder in C++ knows, in sizes that fill none of its blocks, and what it computes for them."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from config import Config
from engine import Engine
from inference.cache.kv_cache import KVCache
from inference.decoders.decoder import Decoder
from inference.decoders.native.decoder import NativeDecoder, build_for
from inference.weights import llama
from inference.weights.checkpoint import Checkpoint
from inference.weights.take_apart import check_llama, take_apart
from study.common.text import piece_of_text
from tests.support.tiny_models import byte_tokenizer, model_of

VOCABULARY, CONTEXT = 301, 250  # sizes that fill neither a panel nor a block
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 72,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3_ROTATION = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
PLAIN: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "llama, no groups": LlamaConfig(**{**SHAPE, "num_key_value_heads": 6, "head_dim": 16}),
    "llama, one group": LlamaConfig(**{**SHAPE, "num_key_value_heads": 1, "head_dim": 48}),
    "llama, long heads": LlamaConfig(**{**SHAPE, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 64}),
    "llama, large group": LlamaConfig(**{**SHAPE, "num_attention_heads": 12, "num_key_value_heads": 1}),
    "llama, tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama, scaled rotation": LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROTATION),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE),
}
GEMMA3_LAYERS = ["sliding_attention", "sliding_attention", "full_attention"]
PHI3_SHAPE = {name: size for name, size in SHAPE.items() if name != "head_dim"} | {"hidden_size": 96 * 2}
VARIED: dict[str, PreTrainedConfig] = {
    "mistral, window": MistralConfig(**SHAPE, sliding_window=40),
    "qwen2, window": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=33, max_window_layers=1),
    "gemma": GemmaConfig(**SHAPE),
    "gemma2": Gemma2Config(**SHAPE, sliding_window=9, attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    "gemma3": Gemma3TextConfig(
        **SHAPE,
        sliding_window=50,
        layer_types=GEMMA3_LAYERS,
        query_pre_attn_scalar=64,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "granite": GraniteConfig(
        **SHAPE,
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        attention_multiplier=0.15,
        logits_scaling=8.0,
    ),
    "phi3": Phi3Config(**PHI3_SHAPE, sliding_window=60),
    "phi3, in part": Phi3Config(
        **PHI3_SHAPE, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}
    ),
    "phi3, longrope": Phi3Config(
        **PHI3_SHAPE,
        original_max_position_embeddings=256,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.75,
            "short_factor": [1.0 + number / 10 for number in range(12)],
            "long_factor": [2.0 + number for number in range(12)],
        },
    ),
    "smollm3": SmolLM3Config(**SHAPE, no_rope_layer_interval=2),
}
EXPERT_SHAPE = SHAPE | {"hidden_size": 96, "intermediate_size": 64, "num_local_experts": 5, "num_experts_per_tok": 2}
MIXTURES: dict[str, PreTrainedConfig] = {
    "mixtral": MixtralConfig(**EXPERT_SHAPE),
    "mixtral, window": MixtralConfig(**EXPERT_SHAPE, sliding_window=40),
    "qwen3 moe": Qwen3MoeConfig(
        **EXPERT_SHAPE | {"num_local_experts": 19, "num_experts_per_tok": 4}, moe_intermediate_size=32
    ),
    "qwen3 moe, some layers": Qwen3MoeConfig(
        **EXPERT_SHAPE | {"intermediate_size": 100}, moe_intermediate_size=32, norm_topk_prob=True, mlp_only_layers=[1]
    ),
    "granite moe": GraniteMoeConfig(
        **{name: size for name, size in EXPERT_SHAPE.items() if name != "head_dim"} | {"hidden_size": 192},
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        attention_multiplier=0.15,
        logits_scaling=8.0,
    ),
}
BIASED: dict[str, PreTrainedConfig] = {
    "llama, biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "gpt-oss": GptOssConfig(**EXPERT_SHAPE, sliding_window=40, swiglu_limit=0.5),
}
MODELS: Mapping[str, PreTrainedConfig] = PLAIN | VARIED | MIXTURES | BIASED
"""Those of the Llama type proper, those that only the decoder in C++ takes apart, with experts, with more biases."""
CPUINFO = Path("/proc/cpuinfo")
HAS_AVX_VNNI = CPUINFO.exists() and " avx_vnni " in CPUINFO.read_text()
INSTRUCTIONS = {
    "this machine's": "",
    "AVX-512, no tiles": "-mno-amx-bf16 -mno-amx-tile",
    "AVX-512, no bfloat16": "-mno-amx-bf16 -mno-amx-tile -mno-avx512bf16",
    "AVX2 alone": "-march=x86-64-v3",
    "SSE alone": "-march=x86-64-v2",
} | ({"AVX2 with VNNI": "-march=x86-64-v3 -mavxvnni"} if HAS_AVX_VNNI else {})
PROMPTS = ["a", "Hello, world", "x" * 100, "once upon a time there was a fox" * 4]
LENGTH = 24
STEPS = [1, 2, 3, 12, 13, 24, 25, 97, *[1] * 23]
"""Of 200 tokens: numbers of rows on both sides of where the decoder goes another way."""


def model_named(name: str) -> PreTrainedModel:
    """A random model whose norms and biases are not the ones and zeros that they begin with."""
    model = model_of(MODELS[name])
    generator = torch.Generator().manual_seed(1)
    for part, parameter in model.named_parameters():
        if "bias" in part or "norm" in part or "sinks" in part:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def engine_of(model: PreTrainedModel, **settings: Any) -> Engine:
    return Engine(Checkpoint(model, byte_tokenizer(), CONTEXT), Config(compile=True, **settings))


def native(model: PreTrainedModel, cache: KVCache, quantize: str | None = None) -> NativeDecoder:
    """The decoder in C++ for a model, which is left as it is."""
    copied = copy.deepcopy(model)
    check_llama(copied, cache.context, may_vary=True)
    taken = take_apart(copied, cache.row_length)
    if quantize:
        taken = llama.quantized(taken, quantize)
    return NativeDecoder(build_for(taken, taken.formats), taken, cache)


def logits_in_steps(
    model: PreTrainedModel, token_ids: Sequence[int], steps: Sequence[int], quantize: str | None = None
) -> Tensor:
    """The native decoder's logits [tokens, vocabulary] of a text that comes in steps of so many tokens, in slot 2."""
    cache = KVCache(4, CONTEXT)
    return decoded_in_steps(native(model, cache, quantize), cache, token_ids, steps)


@torch.inference_mode()
def decoded_in_steps(decoder: Decoder, cache: KVCache, token_ids: Sequence[int], steps: Sequence[int]) -> Tensor:
    """A decoder's logits [tokens, vocabulary] of a text that comes in steps of so many tokens, in slot 2."""
    found, first = [], 0
    for size in steps:
        piece = torch.tensor(token_ids[first : first + size])
        found.append(decoder.forward(piece_of_text(piece, cache, start=first, slot=2)))
        first += size
    assert first == len(token_ids)
    return torch.cat(found)

"""A small random checkpoint of each language model that transformers has.

The configs are the architectures' own defaults with small sizes. Every length at which an architecture may compute
differently (a window, a chunk, a block, how many tokens an indexer keeps) is far below the longest
prompt that is tried.
"""

import copy
import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from inference.weights.model_classes import auto_class

MODEL_TYPES: tuple[str, ...] = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES | MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES)
"""Causal language models, and models that see or hear as well; not all of the latter continue texts."""
VOCABULARY = 320
POSITIONS = 256
WINDOW, CHUNK, KEPT = 24, 32, 16
"""How far a sliding window looks back, how long a chunk is, how many tokens an indexer keeps."""
LARGEST = 20_000_000
"""Parameters of the largest checkpoint that is tried; what is larger does not let itself be shrunk by its config."""

SIZES: Mapping[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("emb_dim", "dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner", "d_ff"), 48),
    **dict.fromkeys(("out_hidden_size", "text_hidden_size", "projection_dim", "projector_hidden_size"), 32),
    **dict.fromkeys(("head_dim", "global_head_dim", "d_kv", "rotary_dim", "qk_rope_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), POSITIONS),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    # A key that is wider than a value, as where both come from one latent vector (MLA).
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 16),
    "v_head_dim": 12,
    # Experts.
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("moe_ffn_hidden_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "zero_expert_num"), 1),
    # What a token sees.
    **dict.fromkeys(("sliding_window", "attention_window", "local_attention", "window_size"), WINDOW),
    "use_sliding_window": True,
    "max_window_layers": 2,
    "attention_chunk_size": CHUNK,
    "index_topk": KEPT,
    "index_n_heads": 2,
    "index_head_dim": 16,
    # States other than keys and values.
    **dict.fromkeys(("mamba_d_state", "state_size", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 0,
    # Weights large enough for attention to matter, and a head of its own: with a tied one, random models repeat.
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "is_decoder": True,
    "add_cross_attention": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_HYBRID = {"layer_types": ["linear_attention", "full_attention"] * 2}
_ENCODER = {"encoder_layers": 4}  # the number of layers in all, by another name
_MLA = {"num_key_value_heads": 4}
_VISION = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
_ROTATION = {"rope_type": "default", "rope_theta": 10_000.0}
_TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
_TEXT |= {"num_key_value_heads": 2, "head_dim": 8}
_IN_SPACE = {"rope_parameters": _ROTATION | {"mrope_section": [1, 1, 2], "partial_rotary_factor": 1.0}}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": CHUNK,
    "partial_rotary_factor": 1.0,
}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots3_note_text"), _MLA),
    **dict.fromkeys(("glm4_moe_lite", "glm_moe_dsa", "longcat_flash", "minicpm3", "youtu"), _MLA),
    **dict.fromkeys(("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp"), _ENCODER),
    **dict.fromkeys(("pegasus", "plbart"), _ENCODER),
    **dict.fromkeys(("mistral4", "mistral_large4_text", "glm5_next_text"), _MLA),
    **dict.fromkeys(("qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text", "paddleocr_vl_text"), _IN_SPACE),
    **dict.fromkeys(("glm4v_text", "glm4v_moe_text", "glm_ocr_text", "hunyuan_vl_text"), _IN_SPACE),
    "bailing_hybrid": _HYBRID | _MLA,
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {"rope_parameters": dict.fromkeys(("full_attention", "sliding_attention"), _ROTATION)},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10_000.0}},
    "dots1": {"n_shared_experts": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3": {"vision_config": _VISION | {"num_attention_heads": 2}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": _HYBRID | _MLA | {"linear_num_heads": 2, "linear_head_dim": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"] * 2,
        "index_block_size": 4,
        "index_topk_blocks": 4,
    },
    "phi3": {"rope_parameters": _LONGROPE, "original_max_position_embeddings": CHUNK},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 16], "attn_layers": ["local", "lsh"] * 2},
    "whisper": _ENCODER | {"max_target_positions": POSITIONS},
    "fuyu": {"text_config": _TEXT},
    "got_ocr2": {"text_config": _TEXT},
    "moss_transcribe_diarize": {"text_config": _TEXT},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}
"""What an architecture needs beyond the sizes."""


class NotTried(Exception):
    """There is no small random checkpoint of this architecture; the message says why."""


def small_model(model_type: str, **settings: Any) -> PreTrainedModel:
    """A small random model in float32, always the same; `settings` are its config's, beyond the sizes.

    Raises:
        NotTried: it cannot be made.
    """
    config = small_config(model_type, **settings)
    try:
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in _model(config).parameters())
    except Exception as error:
        raise NotTried(last_line(error)) from error
    if parameters > LARGEST:
        raise NotTried(f"its config cannot be made smaller than {parameters // 1_000_000} million parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _model(config)
        nn.Module.float(model)
        nn.Module.eval(model)
        _stir(model)
    return model


def small_config(model_type: str, **settings: Any) -> PreTrainedConfig:
    """The config of such a model.

    Raises:
        NotTried: it cannot be made.
    """
    try:
        return _small_config(CONFIG_MAPPING[model_type], settings)
    except Exception as error:  # each architecture has rules of its own
        raise NotTried(last_line(error)) from error


def last_line(error: Exception) -> str:
    """The last line of an error's message, or the error's name if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()


def _model(config: PreTrainedConfig) -> PreTrainedModel:
    model: PreTrainedModel = auto_class(type(config)).from_config(copy.deepcopy(config))  # type: ignore[no-untyped-call]
    return model


def _small_config(config_class: type[PreTrainedConfig], more: Mapping[str, Any]) -> PreTrainedConfig:
    known = _settings_of(config_class)
    settings = {name: value for name, value in SIZES.items() if name in known}
    for name, part in (config_class.sub_configs or {}).items():
        if part is not AutoConfig:
            settings[name] = _small_config(part, {})
        elif (default := _default_part(config_class, name)) is not None:
            settings[name] = _small_config(default, {})
    return config_class(**settings | dict(SETTINGS.get(config_class.model_type, {})) | dict(more))


def _default_part(config_class: type[PreTrainedConfig], name: str) -> type[PreTrainedConfig] | None:
    """The kind of a part that may be of any kind; None if there is none by default."""
    part = getattr(config_class(), name, None)
    return type(part) if isinstance(part, PreTrainedConfig) else None


def _settings_of(config_class: type[PreTrainedConfig]) -> set[str]:
    if dataclasses.is_dataclass(config_class):
        return {field.name for field in dataclasses.fields(config_class)}
    return set(inspect.signature(config_class.__init__).parameters)


@torch.no_grad()
def _stir(model: PreTrainedModel) -> None:
    """Make all weights large enough for a mistake to show in the answer."""
    for parameter in model.parameters():
        if parameter.dim() < 2:
            parameter.copy_(parameter.nan_to_num()).add_(0.1 * torch.randn_like(parameter))
        elif not parameter.std() >= 0.1:
            parameter.normal_(0, 0.2)

"""The configuration that transformers would have for the model in a GGUF file, made of the file's metadata.

What a file says about the model and nothing here understands is refused by name.
"""

from typing import Any

from transformers import PreTrainedConfig

from inference.weights.config_numbers import check_numbers
from inference.weights.gguf.architecture import Architecture
from inference.weights.gguf.architectures import architecture_of
from inference.weights.gguf.file import BadGGUF, GGUFFile
from inference.weights.gguf.heads import has_experts, head_sizes, is_llama, size_of_some
from inference.weights.gguf.keys import refuse_unread
from inference.weights.gguf.rope import rope_parameters

NAMES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "rope_theta": "rope.freq_base",
    "sliding_attention.rope_theta": "rope.freq_base_swa",
    "factor": "rope.scaling.factor",
    "original_max_position_embeddings": "rope.scaling.original_context_length",
    "attention_factor": "rope.scaling.yarn_attn_factor",
    "beta_fast": "rope.scaling.yarn_beta_fast",
    "beta_slow": "rope.scaling.yarn_beta_slow",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
"""The keys of settings that are numbers, for errors about them."""


def model_config(file: GGUFFile) -> PreTrainedConfig:
    """The configuration that transformers would have for this model.

    Raises:
        BadGGUF: the architecture or something in its metadata is not supported.
    """
    from transformers import AutoConfig  # not at the top: with it come all of transformers' architectures

    config: PreTrainedConfig = AutoConfig.for_model(architecture_of(file).model_type, **_settings(file))
    return config


def plain_config(file: GGUFFile) -> PreTrainedConfig | None:
    """The same settings for a decoder of our own; None if the model is not of the Llama type.

    What transformers knows of an architecture is left out: to import it takes more than a second, with torch's compiler
    and a package for algebra. Sizes that do not fit each other show when the weights are read.

    Raises:
        BadGGUF: something in the metadata is not supported.
    """
    if not is_llama(file):
        return None
    return PreTrainedConfig(**_settings(file))


def _settings(file: GGUFFile) -> dict[str, Any]:
    architecture = architecture_of(file)
    common = _common(file, architecture)
    settings = common | architecture.bias_settings(file) | architecture.settings(file, common)
    epsilon_key, epsilon = architecture.epsilon
    names = {name: f"{file.architecture}.{key}" for name, key in (NAMES | {epsilon: epsilon_key}).items()}
    check_numbers(file.path, settings, file.elements, len(file.tensors), names)
    return settings


def _common(file: GGUFFile, architecture: Architecture) -> dict[str, Any]:
    """The settings that all architectures have."""
    refuse_unread(file, architecture.keys)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise BadGGUF(file.path, "expected a tensor token_embd.weight of two dimensions")
    if (hidden := file.count("embedding_length")) != embedding.shape[1]:
        key = f"{file.architecture}.embedding_length"
        raise BadGGUF(file.path, f"{key} is {hidden}; expected {embedding.shape[1]}, the width of token_embd.weight")
    _check_experts(file)
    epsilon_key, epsilon = architecture.epsilon
    heads, kv_heads, head_dim = _head_sizes(file, architecture)
    return {
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": _width(file, architecture),
        "num_hidden_layers": file.layers - _layers_behind(file, architecture),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        epsilon: file.get(f"{file.architecture}.{epsilon_key}", float),
        "max_position_embeddings": file.count("context_length"),
        "rope_parameters": rope_parameters(file, head_dim, architecture.rotates_in_part),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "bos_token_id": file.token_id("bos"),
        "eos_token_id": file.token_id("eos"),
        "pad_token_id": None,  # it would make a row of the embedding special, and serving pads nothing
    }


def _check_experts(file: GGUFFile) -> None:
    """Check that a token does not go through more experts than a layer has."""
    if has_experts(file) and (count := file.count("expert_count")) < (used := file.count("expert_used_count")):
        key = f"{file.architecture}.expert_used_count"
        raise BadGGUF(file.path, f"{key} is {used}; expected at most {count}, as many as there are (expert_count)")


def _size(file: GGUFFile, architecture: Architecture, key: str) -> int:
    """A size of all layers; of the first one where they may differ."""
    return file.counts(key)[0] if key in architecture.sizes_by_layer else file.count(key)


def _width(file: GGUFFile, architecture: Architecture) -> int:
    """The width of the MLP; that of an expert in files of mixtures that have no other."""
    key = "feed_forward_length"
    is_other = f"{file.architecture}.{key}" not in file.metadata and file.says(f"expert_{key}")
    if architecture.keeps_states and not is_other:
        return size_of_some(file, key)
    return _size(file, architecture, f"expert_{key}" if is_other else key)


def _head_sizes(file: GGUFFile, architecture: Architecture) -> tuple[int, int, int]:
    if architecture.has_latents:
        heads = file.count("attention.head_count")
        return heads, heads, file.count("rope.dimension_count")
    if {"attention.head_count", "attention.head_count_kv"} & architecture.sizes_by_layer:
        heads, kv_heads = (_size(file, architecture, f"attention.{key}") for key in ("head_count", "head_count_kv"))
        return heads, kv_heads, file.count("attention.key_length")
    return head_sizes(file, architecture.rotates_in_part, architecture.keeps_states)


def _layers_behind(file: GGUFFile, architecture: Architecture) -> int:
    """How many layers guess tokens ahead, which files of some architectures have behind the last."""
    behind: int = 0
    if "nextn_predict_layers" in architecture.keys:
        behind = file.get(f"{file.architecture}.nextn_predict_layers", int, 0)
    if not 0 <= behind < (layers := file.layers):
        raise BadGGUF(file.path, f"{file.architecture}.nextn_predict_layers is {behind}, of {layers} layers in all")
    return behind

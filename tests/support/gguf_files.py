"""Writes a transformers model as a GGUF file, changing its weights as llama.cpp's converter does."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, quantize
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from inference.weights.gguf.heads import ROUTER
from tests.support.gguf_families import WRITTEN
from tests.support.gguf_rules import Written
from tests.support.tiny_models import SPECIAL_TOKENS

ENDS = (SPECIAL_TOKENS.index("<eos>"),)
"""The tokens of the test tokenizers that end a text in a GGUF file, where `<eos>` is an end by its name."""
PAIRED = ("llama", "mistral")
"""Architectures of whose heads llama.cpp has the rows in another order."""
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}
IN_LAYER = re.compile(r"[a-z_.]+\.(?:layers|blocks|h)\.(?P<number>\d+)\.(?P<name>.+)")
"""The name of a layer's weight in transformers' models."""
GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    kind: str = "F32",
    tensors_per_file: int = 0,
    is_fused: bool = False,
    written: Written | None = None,
    extra: Mapping[str, Tensor] = MappingProxyType({}),
    **metadata: Any,
) -> Path:
    """Write `model`; return the file, or the first of its parts if it is to be split.

    Args:
        kind: the type of matrices; vectors and routers are float32, and matrices whose rows are no whole blocks.
        is_fused: as `--fuse-qkv` makes it.
        written: by which rules; by default those of the model's type.
        extra: more tensors, by their names in the file.
        metadata: what more to say, or to say instead, with `__` for the dots of a key; None leaves a key out.
    """
    written = written or _written(model.config)
    architecture = written.architecture
    # Split by size: no other way starts a new file at a tensor of our choice in this version of gguf.
    writer = GGUFWriter(path, architecture, split_max_tensors=tensors_per_file)
    entries = _model_entries(written, model.config) | _number_entries(written, model) | _tokenizer_entries(tokenizer)
    entries |= {key.replace("__", "."): value for key, value in metadata.items()}
    for key, value in entries.items():
        _add(writer, key, value)
    tensors = {**_tensors(written, model), **written.extra(model), **extra}
    for name, weight in (_fused(tensors) if is_fused else tensors).items():
        numbers = weight.detach().float().numpy()
        if numbers.ndim == 1 or not _is_in_blocks(numbers, kind) or name.endswith(f".{ROUTER}.weight"):
            writer.add_tensor(name, numbers)
        else:
            of = GGMLQuantizationType[kind]
            writer.add_tensor(name, quantize(numbers, of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if path.is_file() else min(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))


def _is_in_blocks(numbers: NDArray[np.float32], kind: str) -> bool:
    return kind != "F32" and numbers.shape[-1] % GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0] == 0


def write_vocabulary(path: Path, tokens: int, entries: Mapping[str, Any], architecture: str = "llama") -> Path:
    """Write a file of an embedding of so many tokens, and of what `entries` say of them."""
    writer = GGUFWriter(path, architecture)
    for key, value in entries.items():
        _add(writer, key, value)
    writer.add_tensor("token_embd.weight", np.zeros((tokens, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _written(config: PreTrainedConfig) -> Written:
    kind = config.model_type
    if kind in WRITTEN:
        return WRITTEN[kind]
    name = kind.removesuffix("_text").replace("_moe", "moe")
    names = GEMMA_NAMES if name in ("gemma2", "gemma3") else {}
    return Written(name, names, is_paired=name in PAIRED, norm_offset=float(name.startswith("gemma")))


def _tensors(written: Written, model: PreTrainedModel) -> dict[str, Tensor]:
    config = model.config
    tensors: dict[str, Tensor] = {}
    names = {**NAMES, **written.names}
    heads = {"attn_q": config.num_attention_heads, "attn_k": _head_sizes(config)[0], "attn_q_norm": 1, "attn_k_norm": 1}
    for name, weight in model.state_dict().items():
        in_layer = IN_LAYER.fullmatch(name)
        place = f"blk.{in_layer['number']}." if in_layer else ""
        if in_layer and in_layer["name"] in written.numbers:
            continue
        if in_layer and (parts := written.split(in_layer["name"], weight)):
            tensors |= {f"{place}{own}": part for own, part in parts.items()}
            continue
        if ".experts." in name:
            tensors |= _experts(name, weight)
            continue
        stem, _, suffix = name.rpartition(".")
        if stem == "lm_head" and config.tie_word_embeddings:
            continue
        own = names[in_layer["name"].rpartition(".")[0] if in_layer else stem]
        if not own:
            continue
        if written.is_paired and own in heads:
            weight = paired(weight, heads[own])
        if own == "ffn_gate_inp_shexp":
            weight = weight[0]
        if written.norm_offset and own.endswith("norm") and suffix == "weight":
            weight = weight + written.norm_offset
        tensors[f"{place}{own}.{suffix}"] = weight
    return tensors


def _experts(name: str, weight: Tensor) -> dict[str, Tensor]:
    place = f"blk.{name.split('.')[2]}"
    if name.endswith("down_proj"):
        return {f"{place}.ffn_down_exps.weight": weight}
    gates, ups = weight.chunk(2, dim=1)
    return {f"{place}.ffn_gate_exps.weight": gates, f"{place}.ffn_up_exps.weight": ups}


def _fused(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    joined = dict(tensors)
    for name in tensors:
        if ".attn_q." in name:
            parts = [joined.pop(name.replace("attn_q", own)) for own in ("attn_q", "attn_k", "attn_v")]
            joined[name.replace("attn_q", "attn_qkv")] = torch.cat(parts)
    return joined


def paired(weight: Tensor, heads: int) -> Tensor:
    """The rows of each head in the order of llama.cpp: those that are rotated together next to each other."""
    return weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def _head_sizes(config: PreTrainedConfig) -> tuple[int, int]:
    """How many heads of keys and values the first layer has, and how wide they are."""
    layer = config.per_layer_config[0] if config.model_type == "gemma4_text" else config
    heads = config.num_attention_heads
    return (
        getattr(layer, "num_key_value_heads", heads),
        getattr(layer, "head_dim", None) or config.hidden_size // heads,
    )


def _model_entries(written: Written, config: PreTrainedConfig) -> dict[str, Any]:
    architecture = written.architecture
    kv_heads, head_dim = _head_sizes(config)
    return {
        f"{architecture}.vocab_size": config.vocab_size,
        f"{architecture}.context_length": config.max_position_embeddings,
        f"{architecture}.embedding_length": config.hidden_size,
        f"{architecture}.block_count": config.num_hidden_layers,
        f"{architecture}.feed_forward_length": getattr(config, "intermediate_size", None),
        f"{architecture}.attention.head_count": config.num_attention_heads,
        f"{architecture}.attention.head_count_kv": kv_heads,
        f"{architecture}.attention.key_length": head_dim,
        f"{architecture}.attention.value_length": head_dim,
        f"{architecture}.attention.layer_norm_rms_epsilon": getattr(config, "rms_norm_eps", None),
        f"{architecture}.attention.sliding_window": getattr(config, "sliding_window", None),
        f"{architecture}.rope.dimension_count": head_dim,
        f"{architecture}.rope.freq_base": (getattr(config, "rope_parameters", None) or {}).get("rope_theta"),
        f"{architecture}.expert_count": getattr(config, "num_experts", getattr(config, "num_local_experts", None)),
        f"{architecture}.expert_used_count": getattr(config, "num_experts_per_tok", None),
        f"{architecture}.expert_feed_forward_length": getattr(config, "moe_intermediate_size", None),
        f"{architecture}.expert_shared_feed_forward_length": getattr(config, "shared_expert_intermediate_size", None),
    } | {f"{architecture}.{key}": value for key, value in written.entries(config).items()}


def _number_entries(written: Written, model: PreTrainedModel) -> dict[str, Any]:
    weights = model.state_dict()
    return {
        key: [weights[f"model.layers.{layer}.{name}"].item() for layer in range(model.config.num_hidden_layers)]
        for name, key in written.numbers.items()
    }


def _tokenizer_entries(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """A byte-level BPE tokenizer's vocabulary, merges and special tokens."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    special = {token["content"] for token in described["added_tokens"] if token["special"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in described["model"]["merges"]],
        "tokenizer.ggml.add_bos_token": False,
    }


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    match value:
        case None:
            return
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def random_blocks(kind: GGMLQuantizationType, rows: int, row_bytes: int) -> NDArray[np.uint8]:
    """Bytes that are blocks of a type; whatever they are, they mean numbers, some of which may be NaN."""
    return np.random.default_rng(int(kind)).integers(0, 256, (rows, row_bytes), dtype=np.uint8)


def same_weights(one: PreTrainedModel, other: PreTrainedModel, tolerance: float = 0.0) -> bool:
    """Whether two models have the same weights under the same names.

    Args:
        tolerance: how far two numbers may be apart, as a part of the tensor's largest.
    """
    ours: Mapping[str, Tensor] = one.state_dict()
    theirs: Mapping[str, Tensor] = other.state_dict()
    return ours.keys() == theirs.keys() and all(
        torch.allclose(ours[name], theirs[name], rtol=0, atol=tolerance * theirs[name].abs().max().item())
        for name in ours
    )

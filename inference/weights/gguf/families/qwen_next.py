"""Qwen3-Next and Qwen 3.5, with experts or without: linear attention (gated delta nets) in most layers.

Several heads of values share one of keys there. transformers has the values of one head of keys next to each other;
files of Qwen 3.5 have first the first of every head of keys, then the second, and so on.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from inference.weights.gguf.architecture import (
    EXPERTS,
    LAYER,
    QKVO,
    Architecture,
    Made,
    as_a_row,
    as_it_is,
    experts,
)
from inference.weights.gguf.families.qwen import SHARED_EXPERT
from inference.weights.gguf.families.states import OF_STATES, decays, kernels
from inference.weights.gguf.file import BadGGUF, GGUFFile


def _settings(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    name = file.architecture
    keys, values = file.count("ssm.group_count"), file.count("ssm.time_step_rank")
    if values % keys:
        raise BadGGUF(
            file.path, f"{name}.ssm.time_step_rank is {values}; expected a multiple of ssm.group_count, {keys}"
        )
    if (inner := file.count("ssm.inner_size")) % values:
        raise BadGGUF(
            file.path, f"{name}.ssm.inner_size is {inner}; expected a multiple of ssm.time_step_rank, {values}"
        )
    return {
        "layer_types": _layer_types(file, common["num_hidden_layers"]),
        "linear_conv_kernel_dim": file.count("ssm.conv_kernel"),
        "linear_key_head_dim": file.count("ssm.state_size"),
        "linear_value_head_dim": inner // values,
        "linear_num_key_heads": keys,
        "linear_num_value_heads": values,
    }


def _layer_types(file: GGUFFile, layers: int) -> list[str]:
    """Which layers attend: as the file lists those that do not, or one of every so many.

    Raises:
        BadGGUF: the file lists fewer than there are, or has no such number.
    """
    recurrent = file.metadata.get(key := f"{file.architecture}.attention.recurrent_layers")
    if recurrent is None:
        every = file.count("full_attention_interval", 4)
        recurrent = [(layer + 1) % every != 0 for layer in range(layers)]
    if not isinstance(recurrent, np.ndarray | list) or len(recurrent) not in (layers, file.layers):
        raise BadGGUF(file.path, f"{key}: expected a list of {layers} entries, one for each layer")
    return ["linear_attention" if keeps_state else "full_attention" for keeps_state in recurrent[:layers]]


def _with_experts(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return _settings(file, common) | {
        "num_experts": file.count("expert_count"),
        "num_experts_per_tok": file.count("expert_used_count"),
        "moe_intermediate_size": file.count("expert_feed_forward_length"),
        "shared_expert_intermediate_size": file.count("expert_shared_feed_forward_length"),
    }


# --- The order of heads -----------------------------------------------------------------------------------------------


def _by_key(config: PreTrainedConfig, numbers: Tensor, width: int, dim: int = 0) -> Tensor:
    """Bring the values of each head of keys together, which have `width` rows each, or columns if `dim` is 1."""
    keys = config.linear_num_key_heads
    each = config.linear_num_value_heads // keys
    parted = numbers.reshape(*numbers.shape[:dim], each, keys, width, *numbers.shape[dim + 1 :])
    return parted.transpose(dim, dim + 1).reshape(numbers.shape)


def _heads(config: PreTrainedConfig, numbers: Tensor) -> Tensor:
    """One number, or row, of each head of values."""
    return _by_key(config, numbers, 1)


def _values(config: PreTrainedConfig, rows: Tensor) -> Tensor:
    return _by_key(config, rows, config.linear_value_head_dim)


def _columns(config: PreTrainedConfig, rows: Tensor) -> Tensor:
    return _by_key(config, rows, config.linear_value_head_dim, dim=1)


def _values_last(config: PreTrainedConfig, rows: Tensor) -> Tensor:
    """Rows of queries, keys and values."""
    others = 2 * config.linear_num_key_heads * config.linear_key_head_dim
    return torch.cat([rows[:others], _values(config, rows[others:])])


def _kernels(config: PreTrainedConfig, rows: Tensor) -> Tensor:
    return kernels(_values_last(config, rows))


def _decays(config: PreTrainedConfig, numbers: Tensor) -> Tensor:
    return decays(_heads(config, numbers))


def _in_turn(config: PreTrainedConfig, rows: Tensor, gates: Tensor) -> Tensor:
    """The queries, keys, values and gates of each head of keys, where all queries come first."""
    keys, hidden = config.linear_num_key_heads, config.hidden_size
    of_all = keys * config.linear_key_head_dim
    parts = (*rows.tensor_split((of_all, 2 * of_all)), gates)
    return torch.cat([part.reshape(keys, -1, hidden) for part in parts], dim=1).reshape(-1, hidden)


# --- The table --------------------------------------------------------------------------------------------------------

_made = partial(Made, by_config=True)
OF_QWEN35 = (
    _made("linear_attn.in_proj_qkv.weight", ("attn_qkv.weight",), _values_last),
    _made("linear_attn.in_proj_z.weight", ("attn_gate.weight",), _values),
    _made("linear_attn.in_proj_b.weight", ("ssm_beta.weight",), _heads),
    _made("linear_attn.in_proj_a.weight", ("ssm_alpha.weight",), _heads),
    _made("linear_attn.conv1d.weight", ("ssm_conv1d.weight",), _kernels),
    _made("linear_attn.dt_bias", ("ssm_dt.bias",), _heads),
    _made("linear_attn.A_log", ("ssm_a",), _decays),
    _made("linear_attn.out_proj.weight", ("ssm_out.weight",), _columns),
    Made("linear_attn.norm.weight", ("ssm_norm.weight",), as_it_is),
)
"""The norm of states has nothing added, so it is here, not among the other norms."""
OF_QWEN3_NEXT = (
    _made("linear_attn.in_proj_qkvz.weight", ("attn_qkv.weight", "attn_gate.weight"), _in_turn),
    Made("linear_attn.in_proj_qkvz.weight", ("ssm_in.weight",), as_it_is),
    Made("linear_attn.in_proj_ba.weight", ("ssm_ba.weight",), as_it_is),
    Made("linear_attn.conv1d.weight", ("ssm_conv1d.weight",), kernels),
    Made("linear_attn.dt_bias", ("ssm_dt.bias",), as_it_is),
    Made("linear_attn.A_log", ("ssm_a",), decays),
    Made("linear_attn.out_proj.weight", ("ssm_out.weight",), as_it_is),
    Made("linear_attn.norm.weight", ("ssm_norm.weight",), as_it_is),
)
KEYS = OF_STATES | {"attention.recurrent_layers", "full_attention_interval", "nextn_predict_layers"}
POSITIONS = frozenset({"rope.dimension_sections"})
"""How a head is shared by three positions, which are one and the same in a text."""
NORM = {"post_attention_norm": "post_attention_layernorm"}
MIXTURE = (*experts(), Made("mlp.shared_expert_gate.weight", ("ffn_gate_inp_shexp.weight",), as_a_row))
OF_MIXTURE = frozenset(
    (
        *("expert_count", "expert_used_count", "expert_feed_forward_length"),
        "expert_shared_feed_forward_length",
    )
)


def _row(model_type: str, made: tuple[Made, ...], keys: frozenset[str], is_mixture: bool) -> Architecture:
    return Architecture(
        model_type,
        _with_experts if is_mixture else _settings,
        keys | OF_MIXTURE if is_mixture else keys,
        LAYER | NORM | (EXPERTS | SHARED_EXPERT if is_mixture else {}),
        made=(*made, *MIXTURE) if is_mixture else made,
        keeps_states=True,
        has_gated_queries=True,
        norm_offset=1.0,
        rotates_in_part=True,
        biases={"attention_bias": QKVO},
    )


FAMILY = {
    "qwen3next": _row("qwen3_next", OF_QWEN3_NEXT, KEYS, is_mixture=True),
    "qwen35": _row("qwen3_5_text", OF_QWEN35, KEYS | POSITIONS, is_mixture=False),
    "qwen35moe": _row("qwen3_5_moe_text", OF_QWEN35, KEYS | POSITIONS, is_mixture=True),
}

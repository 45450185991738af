"""How llama.cpp's converter writes GPT-2, StarCoder 1 and GPT-NeoX."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from tests.support.gguf_rules import Written, rotated_in_part

HEADS = 4
"""Of every test model."""
GPT2_NAMES = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
NEOX_NAMES = {
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}


def _gpt2(config: PreTrainedConfig) -> dict[str, Any]:
    return {"feed_forward_length": config.n_inner, "attention.layer_norm_epsilon": config.layer_norm_epsilon}


def _transposed(name: str, weight: Tensor) -> dict[str, Tensor]:
    stem, _, suffix = name.rpartition(".")
    return {f"{GPT2_NAMES[stem]}.{suffix}": weight.t()} if ".c_" in stem and suffix == "weight" else {}


def _neox(config: PreTrainedConfig) -> dict[str, Any]:
    return rotated_in_part(config) | {
        "attention.layer_norm_epsilon": config.layer_norm_eps,
        "use_parallel_residual": config.use_parallel_residual,
    }


def _all_queries_first(name: str, weight: Tensor) -> dict[str, Tensor]:
    stem, _, suffix = name.rpartition(".")
    if stem != "attention.query_key_value":
        return {}
    rows = weight.reshape(HEADS, 3, len(weight) // HEADS // 3, -1).transpose(0, 1)
    return {f"attn_qkv.{suffix}": rows.reshape(weight.shape)}


WRITTEN: Mapping[str, Written] = {
    "gpt2": Written("gpt2", GPT2_NAMES, _gpt2, split=_transposed),
    "gpt_bigcode": Written("starcoder", GPT2_NAMES, _gpt2),
    "gpt_neox": Written("gptneox", NEOX_NAMES, _neox, split=_all_queries_first),
}

"""DBRX: a mixture of experts whose matrices transformers has one below the other."""

from typing import Any

from torch import Tensor

from inference.weights.gguf.architecture import LAYER_NORM_EPSILON, Architecture, Made
from inference.weights.gguf.file import BadGGUF, GGUFFile

EPSILON = 1e-5
"""The epsilon of all norms; no configuration of transformers can set another."""


def _dbrx(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    if abs((epsilon := file.get(f"dbrx.{LAYER_NORM_EPSILON}", float, EPSILON)) - EPSILON) > EPSILON / 1000:
        raise BadGGUF(file.path, f"dbrx.{LAYER_NORM_EPSILON} is {epsilon}; expected {EPSILON}")
    return {
        "d_model": common["hidden_size"],
        "attn_config": {
            "kv_n_heads": common["num_key_value_heads"],
            "rope_theta": common["rope_parameters"]["rope_theta"],
            "clip_qkv": file.get("dbrx.attention.clamp_kqv", float, 0.0) or None,
        },
        "ffn_config": {
            "ffn_hidden_size": common["intermediate_size"],
            "moe_num_experts": file.count("expert_count"),
            "moe_top_k": file.count("expert_used_count"),
        },
    }


def _one_below_the_other(experts: Tensor) -> Tensor:
    """Matrices [experts, rows, inputs] as one of [experts × rows, inputs]."""
    return experts.flatten(0, 1)


def _downs(experts: Tensor) -> Tensor:
    """The matrices that lead back are [experts, outputs, inputs] in files, and the other way round in the model."""
    return _one_below_the_other(experts.transpose(1, 2))


EXPERTS = "ffn.experts.mlp"
FAMILY = {
    "dbrx": Architecture(
        "dbrx",
        _dbrx,
        frozenset({"attention.clamp_kqv", "expert_count", "expert_used_count"}),
        {
            "attn_norm": "norm_attn_norm.norm_1",
            "attn_qkv": "norm_attn_norm.attn.Wqkv",
            "attn_output": "norm_attn_norm.attn.out_proj",
            "attn_output_norm": "norm_attn_norm.norm_2",
            "ffn_gate_inp": "ffn.router.layer",
        },
        {"token_embd": "transformer.wte", "output_norm": "transformer.norm_f", "output": "lm_head"},
        layers="transformer.blocks",
        made=(
            Made(f"{EXPERTS}.w1", ("ffn_gate_exps.weight",), _one_below_the_other),
            Made(f"{EXPERTS}.v1", ("ffn_up_exps.weight",), _one_below_the_other),
            Made(f"{EXPERTS}.w2", ("ffn_down_exps.weight",), _downs),
        ),
        epsilon=(LAYER_NORM_EPSILON, "layer_norm_epsilon"),
    ),
}

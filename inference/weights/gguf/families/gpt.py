"""GPT-2 and what came of it: StarCoder, and GPT-NeoX with Pythia. Queries, keys and values are one matrix."""

from typing import Any

from inference.weights.gguf.architecture import LAYER, LAYER_NORM_EPSILON, Architecture, Made, transposed
from inference.weights.gguf.file import BadGGUF, GGUFFile


def _gpt2(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {"n_inner": common["intermediate_size"]}


def _starcoder(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """All heads share one key and one value. With one for each, transformers has the rows in another order."""
    if (shared := common["num_key_value_heads"]) != 1:
        raise BadGGUF(file.path, f"starcoder.attention.head_count_kv is {shared}; expected 1, shared by all heads")
    return _gpt2(file, common) | {"multi_query": True}


def _neox(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {"use_parallel_residual": file.get("gptneox.use_parallel_residual", bool, True)}


GPT2 = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
MATRICES = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
GPT2_TOP = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
NEOX = LAYER | {
    "attn_qkv": "attention.query_key_value",
    "attn_output": "attention.dense",
    "ffn_up": "mlp.dense_h_to_4h",
    "ffn_down": "mlp.dense_4h_to_h",
}
NEOX_TOP = {"token_embd": "gpt_neox.embed_in", "output_norm": "gpt_neox.final_layer_norm", "output": "lm_head"}
FAMILY = {
    "gpt2": Architecture(
        "gpt2",
        _gpt2,
        layer=GPT2,
        top=GPT2_TOP,
        layers="transformer.h",
        made=tuple(Made(f"{GPT2[own]}.weight", (f"{own}.weight",), transposed) for own in MATRICES),
        epsilon=(LAYER_NORM_EPSILON, "layer_norm_epsilon"),
        always_biased=MATRICES,
    ),
    "starcoder": Architecture(
        "gpt_bigcode",
        _starcoder,
        layer=GPT2,
        top=GPT2_TOP,
        layers="transformer.h",
        epsilon=(LAYER_NORM_EPSILON, "layer_norm_epsilon"),
        always_biased=MATRICES,
    ),
    "gptneox": Architecture(
        "gpt_neox",
        _neox,
        frozenset({"use_parallel_residual"}),
        NEOX,
        NEOX_TOP,
        layers="gpt_neox.layers",
        has_qkv_by_head=True,
        rotates_in_part=True,
        epsilon=(LAYER_NORM_EPSILON, "layer_norm_eps"),
        biases={"attention_bias": ("attn_qkv", "attn_output")},
        always_biased=("ffn_up", "ffn_down"),
    ),
}

"""Architectures of which there is one: EXAONE 4, ERNIE 4.5, Hunyuan with experts or without, Seed-OSS and Apertus.

Maincoder and the text side of HunyuanOCR are a Hunyuan by other names, that of PaddleOCR-VL is a Llama.
"""

from typing import Any

from inference.weights.gguf.architecture import (
    LAYER,
    MLP,
    QKV,
    QKVO,
    WINDOWS,
    Architecture,
    Made,
    as_a_number,
    as_it_is,
    experts,
    layer_types,
    window_of,
)
from inference.weights.gguf.file import BadGGUF, GGUFFile


def _exaone4(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Where layers have windows, those without one are not rotated."""
    return {
        "sliding_window": window_of(file),
        "sliding_window_pattern": None,
        "layer_types": layer_types(file, common, every=4),
    }


def _hunyuan_moe(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """All experts are as wide as the one that all tokens share."""
    width = file.count("expert_feed_forward_length", common["intermediate_size"])
    shared = file.count("expert_shared_feed_forward_length", width)
    if shared != width or file.count("expert_shared_count", 1) != 1:
        raise BadGGUF(
            file.path,
            f"hunyuan-moe.expert_shared_feed_forward_length is {shared}; expected {width}, and one such expert",
        )
    return {
        "intermediate_size": width,
        "num_experts": file.count("expert_count"),
        "moe_topk": file.count("expert_used_count"),
    }


ACTIVATION = {
    "xielu.alpha_p": Made("mlp.act_fn.alpha_p", (), as_it_is),
    "xielu.alpha_n": Made("mlp.act_fn.alpha_n", (), as_it_is),
    "xielu.beta": Made("mlp.act_fn.beta", (), as_a_number),
    "xielu.eps": Made("mlp.act_fn.eps", (), as_a_number),
}
"""Apertus' activation function, which is trained with the weights of each layer."""
HEAD_NORMS = {"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"}
POSITIONS = frozenset({"rope.dimension_sections"})
"""Key of models that see, which rotate by several positions; in a text these are one and the same."""
SHARED_MLP = {
    "ffn_gate_inp": "mlp.gate.wg",
    "ffn_gate_shexp": "mlp.shared_mlp.gate_proj",
    "ffn_up_shexp": "mlp.shared_mlp.up_proj",
    "ffn_down_shexp": "mlp.shared_mlp.down_proj",
}
HUNYUAN_EXPERTS = frozenset(
    (
        *("expert_count", "expert_used_count", "expert_shared_count", "expert_feed_forward_length"),
        "expert_shared_feed_forward_length",
    )
)
FAMILY = {
    "apertus": Architecture(
        "apertus",
        layer=LAYER | {"attn_norm": "attention_layernorm", "ffn_norm": "feedforward_layernorm"},
        numbers=ACTIVATION,
        biases={"attention_bias": QKVO},
    ),
    "exaone4": Architecture(
        "exaone4",
        _exaone4,
        WINDOWS,
        LAYER | {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"},
    ),
    "ernie4_5": Architecture("ernie4_5", biases={"use_bias": (*QKVO, *MLP)}),
    "hunyuan-dense": Architecture(
        "hunyuan_v1_dense",
        layer=LAYER | HEAD_NORMS,
        biases={"attention_bias": QKVO},
    ),
    "paddleocr": Architecture("llama", keys=POSITIONS, biases={"attention_bias": QKVO, "mlp_bias": MLP}),
    "hunyuan_vl": Architecture(
        "hunyuan_v1_dense",
        keys=POSITIONS,
        layer=LAYER | HEAD_NORMS,
        biases={"attention_bias": QKVO},
    ),
    "maincoder": Architecture("hunyuan_v1_dense", layer=LAYER | HEAD_NORMS, has_paired_rows=True),
    "hunyuan-moe": Architecture(
        "hunyuan_v1_moe",
        _hunyuan_moe,
        HUNYUAN_EXPERTS,
        LAYER | HEAD_NORMS | SHARED_MLP,
        made=experts(),
        biases={"attention_bias": QKVO},
    ),
    "seed_oss": Architecture(
        "seed_oss",
        layer=LAYER | {"post_attention_norm": "post_attention_layernorm"},
        biases={"attention_bias": QKV, "attention_out_bias": ("attn_output",), "mlp_bias": MLP},
    ),
}

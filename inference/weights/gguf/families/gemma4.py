"""Gemma 3n and 4: inputs to each layer, keys and values that layers share, heads of two widths, and experts."""

from collections.abc import Sequence
from functools import partial
from statistics import NormalDist
from typing import Any

from torch import Tensor

from inference.weights.gguf.architecture import (
    LAYER,
    QKVO,
    TOP,
    WINDOWS,
    Architecture,
    Made,
    as_it_is,
    experts,
    layer_types,
    required_window,
)
from inference.weights.gguf.families.gemma import FOUR_NORMS, sliding_rope
from inference.weights.gguf.file import BadGGUF, GGUFFile
from inference.weights.gguf.rope import proportional_rope


def _of_both(file: GGUFFile, common: dict[str, Any], every: int) -> dict[str, Any]:
    """What the two have in common: windows, inputs to each layer, and layers that share keys and values."""
    by_layer = file.tensors.get("per_layer_token_embd.weight")
    softcap = file.get(f"{file.architecture}.final_logit_softcapping", float, 0.0)
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": required_window(file),
        "layer_types": layer_types(file, common, every),
        "num_kv_shared_layers": file.get(f"{file.architecture}.attention.shared_kv_layers", int, 0),
        "hidden_size_per_layer_input": file.get(f"{file.architecture}.embedding_length_per_layer_input", int, 0),
        "vocab_size_per_layer_input": by_layer.shape[0] if by_layer else common["vocab_size"],
        "final_logit_softcapping": softcap or None,
    }


# --- Gemma 4 ----------------------------------------------------------------------------------------------------------


def _gemma4(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Layers without a window have wider heads, and may have fewer keys, which are then their values as well."""
    both = _of_both(file, common, every=6)
    slides = [kind == "sliding_attention" for kind in both["layer_types"]]
    width = file.count("attention.key_length")
    sliding_width = file.count("attention.key_length_swa", width)
    for key, expected in (("value_length", width), ("value_length_swa", sliding_width)):
        if (got := file.count(f"attention.{key}", expected)) != expected:
            raise BadGGUF(file.path, f"gemma4.attention.{key} is {got}; expected {expected}, as wide as keys")
    if (rotated := file.count("rope.dimension_count_swa", sliding_width)) != sliding_width:
        raise BadGGUF(
            file.path, f"gemma4.rope.dimension_count_swa is {rotated}; expected {sliding_width}, a whole head"
        )
    kv_heads = file.counts("attention.head_count_kv")
    wide = [{"head_dim": width, "num_key_value_heads": heads} for heads in kv_heads]
    sliding_kv_heads = [heads for heads, has_window in zip(kv_heads, slides, strict=True) if has_window]
    if len(set(sliding_kv_heads)) > 1:
        raise BadGGUF(file.path, "gemma4.attention.head_count_kv differs among layers with a window: not supported")
    is_sharing = not slides[-1] and f"blk.{slides.index(False)}.attn_v.weight" not in file.tensors
    theta = file.get("gemma4.rope.freq_base", float, 1e6)
    return (
        both
        | _widths(file, common["num_hidden_layers"] - both["num_kv_shared_layers"])
        | _experts(file)
        | {
            "head_dim": sliding_width,
            "num_key_value_heads": (sliding_kv_heads or kv_heads)[0],
            "per_layer_config": {layer: wide[layer] for layer, has_window in enumerate(slides) if not has_window},
            "attention_k_eq_v": is_sharing,
            "rope_parameters": {
                "full_attention": proportional_rope(file, theta, width),
                "sliding_attention": sliding_rope(file),
            },
        }
    )


def _widths(file: GGUFFile, own_keys: int) -> dict[str, Any]:
    """Layers that have no keys of their own, the last ones, may have an MLP that is twice as wide."""
    widths = file.counts("feed_forward_length")
    is_double = len(set(widths)) > 1
    factors = [2 if is_double and layer >= own_keys else 1 for layer in range(len(widths))]
    if widths != [widths[0] * factor for factor in factors]:
        raise BadGGUF(
            file.path,
            "gemma4.feed_forward_length differs from layer to layer in a way that is not supported; expected twice the "
            "width in the layers that share keys and values",
        )
    return {"intermediate_size": widths[0], "use_double_wide_mlp": is_double}


def _experts(file: GGUFFile) -> dict[str, Any]:
    if not file.get("gemma4.expert_count", int, 0):
        return {"enable_moe_block": False}
    return {
        "enable_moe_block": True,
        "num_experts": file.count("expert_count"),
        "top_k_experts": file.count("expert_used_count"),
        "moe_intermediate_size": file.count("expert_feed_forward_length"),
    }


# --- Gemma 3n ---------------------------------------------------------------------------------------------------------


def _gemma3n(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    rank = file.tensors.get("blk.0.laurel_l.weight")
    if rank is None:
        raise BadGGUF(file.path, "expected a tensor blk.0.laurel_l.weight, as in all layers of Gemma 3n")
    return _of_both(file, common, every=5) | {
        "laurel_rank": rank.shape[0],
        "altup_num_inputs": file.count("altup.num_inputs"),
        "altup_active_idx": file.get("gemma3n.altup.active_idx", int, 0),
        "activation_sparsity_pattern": _sparsity(file, common["num_hidden_layers"]),
        "rope_parameters": {"full_attention": common["rope_parameters"], "sliding_attention": sliding_rope(file)},
    }


def _sparsity(file: GGUFFile, layers: int) -> list[float]:
    """What part of each layer's activations is 0. Files have how many standard deviations that is."""
    scales = file.metadata.get("gemma3n.activation_sparsity_scale", ())
    if len(scales) != layers:
        raise BadGGUF(
            file.path,
            f"gemma3n.activation_sparsity_scale has {len(scales)} entries; expected {layers}, one for each layer",
        )
    return [round(NormalDist().cdf(float(scale)), 6) for scale in scales]


def _nth(stacked: Tensor, number: int) -> Tensor:
    return stacked[number]


def _apart(name: str, stacked: str, count: int) -> Sequence[Made]:
    """Several matrices that files have in one tensor, [matrices, rows, inputs]."""
    return [Made(name.format(number), (stacked,), partial(_nth, number=number)) for number in range(count)]


INPUTS_TO_LAYERS = {
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
}
OF_INPUTS = {
    "per_layer_token_embd": "model.embed_tokens_per_layer",
    "per_layer_model_proj": "model.per_layer_model_projection",
    "per_layer_proj_norm": "model.per_layer_projection_norm",
}
ALTERNATING = {
    "altup_correct_coef": "altup.correction_coefs",
    "altup_predict_coef": "altup.prediction_coefs",
    "altup_router": "altup.modality_router",
    "altup_router_norm": "altup.router_norm",
    "laurel_l": "laurel.linear_left",
    "laurel_r": "laurel.linear_right",
    "laurel_post_norm": "laurel.post_laurel_norm",
}
MIXTURE = {
    "ffn_gate_inp": "router.proj",
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
    "post_ffw_norm_1": "post_feedforward_layernorm_1",
    "post_ffw_norm_2": "post_feedforward_layernorm_2",
}
BIASES = {"attention_bias": QKVO}
KEYS = WINDOWS | {
    "final_logit_softcapping",
    "rope.freq_base_swa",
    "attention.shared_kv_layers",
    "embedding_length_per_layer_input",
}
FAMILY = {
    "gemma3n": Architecture(
        "gemma3n_text",
        _gemma3n,
        KEYS | {"altup.num_inputs", "altup.active_idx", "activation_sparsity_scale"},
        LAYER | FOUR_NORMS | INPUTS_TO_LAYERS | ALTERNATING,
        TOP | OF_INPUTS,
        made=(Made("altup.correct_output_scale", ("altup_correct_scale.weight",), as_it_is),),
        made_on_top=(
            *_apart("model.altup_projections.{}.weight", "altup_proj.weight", 3),
            *_apart("model.altup_unembed_projections.{}.weight", "altup_unembd_proj.weight", 3),
        ),
        biases=BIASES,
    ),
    "gemma4": Architecture(
        "gemma4_text",
        _gemma4,
        KEYS
        | {
            *("attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa"),
            *("expert_count", "expert_used_count", "expert_feed_forward_length"),
        },
        LAYER | FOUR_NORMS | INPUTS_TO_LAYERS | MIXTURE,
        TOP | OF_INPUTS,
        made=(
            *experts("experts"),
            Made("layer_scalar", ("layer_output_scale.weight",), as_it_is),
            Made("router.scale", ("ffn_gate_inp.scale",), as_it_is),
            Made("router.per_expert_scale", ("ffn_down_exps.scale",), as_it_is),
        ),
        sizes_by_layer=frozenset({"attention.head_count_kv", "feed_forward_length"}),
        biases=BIASES,
    ),
}

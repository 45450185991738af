"""Llama, models of other makers that are the same, and what differs in activations, scales, experts or rotated layers.

The converter has the rows of most of their queries and keys in another order, for there llama.cpp rotates neighbours
and not halves.
"""

from typing import Any

from inference.weights.gguf.architecture import (
    EXPERTS,
    LAYER,
    MLP,
    QKVO,
    WINDOWS,
    Architecture,
    Made,
    as_it_is,
    experts,
    joined_rows,
    layer_types,
    required_window,
    window_of,
)
from inference.weights.gguf.families.states import OF_STATES
from inference.weights.gguf.file import BadGGUF, GGUFFile

BIASES = {"attention_bias": QKVO, "mlp_bias": MLP}


def _mistral(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {"sliding_window": window_of(file)}


def _mixtral(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_local_experts": file.count("expert_count"),
        "num_experts_per_tok": file.count("expert_used_count"),
        "sliding_window": None,
    }


def _ministral3(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Queries grow with the logarithm of their distance from the beginning."""
    scale = file.get("mistral3.attention.temperature_scale", float, 0.0)
    log_multiplier = file.get("mistral3.rope.scaling.yarn_log_multiplier", float, 0.0)
    rope = common["rope_parameters"] | {
        "llama_4_scaling_beta": scale,
        "mscale": 1.0,
        "mscale_all_dim": log_multiplier,
    }
    if rope["rope_type"] != "yarn":
        raise BadGGUF(file.path, f"mistral3.rope.scaling.type is {rope['rope_type']}; expected yarn")
    return {"rope_parameters": rope, "sliding_window": None}


def _smollm3(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Every fourth layer is not rotated. Files do not say so, as there are no others."""
    return {"no_rope_layer_interval": 4, "use_sliding_window": False}


def _granite(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    if not is_rotated(file):
        raise BadGGUF(file.path, "a Granite without a rotary embedding is not supported in GGUF")
    return granite_scales(file, common)


def is_rotated(file: GGUFFile) -> bool:
    """Whether a Granite has a rotary embedding."""
    rotates: bool = file.get(f"{file.architecture}.rope.scaling.finetuned", bool, True)  # by which these files mean so
    return rotates


def granite_scales(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    def scale(key: str, default: float = 1.0) -> float:
        number: float = file.get(f"{file.architecture}.{key}", float, default)
        return number or default  # llama.cpp takes 0 for a scale that there is not

    return {
        "attention_multiplier": scale("attention.scale", common["head_dim"] ** -0.5),
        "embedding_multiplier": scale("embedding_scale"),
        "residual_multiplier": scale("residual_scale"),
        "logits_scaling": scale("logit_scale"),
    }


def _minicpm(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Granite's scales. Older files do not have them; llama.cpp knows those of the models that there were."""

    def scale(key: str, default: float) -> float:
        number: float = file.get(f"minicpm.{key}", float, default)
        return number

    return {
        "attention_multiplier": common["head_dim"] ** -0.5,
        "embedding_multiplier": scale("embedding_scale", 12.0),
        "residual_multiplier": scale("residual_scale", 1.4 / common["num_hidden_layers"] ** 0.5),
        "logits_scaling": scale("logit_scale", common["hidden_size"] / 256),
    }


def _baichuan(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Only the model of 7B is a Llama. No file says which it is; llama.cpp goes by the number of layers, too."""
    if (layers := common["num_hidden_layers"]) != 32:
        raise BadGGUF(file.path, f"a Baichuan of {layers} layers is not supported; expected 32, those of the 7B model")
    return {}


def _granite_swa(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    """Layers of two kinds, of which some are not rotated."""
    layers = common["num_hidden_layers"]
    pattern = file.metadata.get("granite_swa.attention.rope_pattern", [True] * layers)
    if len(pattern) != layers:
        raise BadGGUF(
            file.path,
            f"granite_swa.attention.rope_pattern has {len(pattern)} entries; expected {layers}, one for each layer",
        )
    theta = common["rope_parameters"]["rope_theta"]
    return _granite(file, common) | {
        "sliding_window": required_window(file),
        "layer_types": layer_types(file, common, every=4, without_is_first=True),
        "layer_rope_theta": [theta if turns else 0.0 for turns in pattern],
    }


def _granite_moe_swa(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return _granite_moe(file, common) | _granite_swa(file, common)


def _granite_moe(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return _granite(file, common) | {
        "num_local_experts": file.count("expert_count"),
        "num_experts_per_tok": file.count("expert_used_count"),
        "shared_intermediate_size": file.get(f"{file.architecture}.expert_shared_feed_forward_length", int, 0),
    }


GRANITE_SCALES = frozenset({"attention.scale", "embedding_scale", "residual_scale", "logit_scale"})
GRANITE_KEYS = GRANITE_SCALES | OF_STATES | {"expert_shared_feed_forward_length"}
"""Files of Granite 4 have sizes of states also where the model has no layer with one."""
MINICPM_SCALES = GRANITE_SCALES - {"attention.scale"}
GRANITE_MOE_LAYER = LAYER | {
    "ffn_gate_inp": "block_sparse_moe.router",
    "ffn_down_shexp": "shared_mlp.output_linear",
}
SINKS = Made("self_attn.sinks", ("attn_sinks.weight",), as_it_is)
GRANITE_MOE = (
    *experts("block_sparse_moe.experts"),
    Made("shared_mlp.input_linear.weight", ("ffn_gate_shexp.weight", "ffn_up_shexp.weight"), joined_rows),
)
OF_EXPERTS = frozenset({"expert_count", "expert_used_count"})

MIXTRAL = Architecture("mixtral", _mixtral, OF_EXPERTS, LAYER | EXPERTS, made=experts(), has_paired_rows=True)
"""Its files say `llama`, as those of models without experts do."""
MINISTRAL3 = Architecture(
    "ministral3",
    _ministral3,
    frozenset({"attention.temperature_scale", "rope.scaling.yarn_log_multiplier"}),
    has_paired_rows=True,
)
"""Its files say `mistral3`, as those of Mistral Small 3.1 do, but have one of these keys."""
GRANITE_SWA = GRANITE_SCALES | WINDOWS | {"attention.rope_pattern"}
GRANITE_MOE_SWA = Architecture(
    "granitemoe_swa",
    _granite_moe_swa,
    GRANITE_SWA | OF_EXPERTS | {"expert_shared_feed_forward_length"},
    GRANITE_MOE_LAYER | {"ffn_up_shexp": "shared_mlp.input_linear"},
    made=(*experts("block_sparse_moe.experts"), SINKS),
    has_paired_rows=True,
    biases={"attention_bias": QKVO},
)
"""Its files say `granite_swa`, as those of models without experts do."""
FAMILY = {
    "llama": Architecture("llama", has_paired_rows=True, biases=BIASES),
    "mistral": Architecture("mistral", _mistral, frozenset({"attention.sliding_window"}), has_paired_rows=True),
    "mistral3": Architecture("mistral", _mistral, has_paired_rows=True),
    "internlm2": Architecture("llama", has_paired_rows=True),
    "xverse": Architecture("llama", has_paired_rows=True),
    "baichuan": Architecture("llama", _baichuan, has_paired_rows=True),
    "exaone": Architecture("llama"),
    "pangu-embedded": Architecture("llama", biases=BIASES),
    "smollm3": Architecture("smollm3", _smollm3, has_paired_rows=True, biases=BIASES),
    "arcee": Architecture("arcee", has_paired_rows=True, biases=BIASES),
    "granite": Architecture("granite", _granite, GRANITE_KEYS, has_paired_rows=True, biases=BIASES),
    "granite_swa": Architecture(
        "granite_swa", _granite_swa, GRANITE_SWA, made=(SINKS,), has_paired_rows=True, biases=BIASES
    ),
    "minicpm": Architecture("granite", _minicpm, MINICPM_SCALES, has_paired_rows=True, biases=BIASES),
    "granitemoe": Architecture(
        "granitemoeshared",
        _granite_moe,
        GRANITE_KEYS | OF_EXPERTS,
        GRANITE_MOE_LAYER,
        made=GRANITE_MOE,
        has_paired_rows=True,
        biases={"attention_bias": QKVO},
    ),
}

"""What an architecture is for the reader of GGUF files, and what the families of architectures have in common.

llama.cpp has names of its own for weights and settings. An `Architecture` is one row of the table in `architectures`:
it says what transformers calls them, and what was changed when the model was converted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from inference.weights.gguf.file import BadGGUF, GGUFFile

LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""llama.cpp's names for a layer's weights, and those of transformers."""
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
"""The same of the weights outside the layers."""
QKV = ("attn_q", "attn_k", "attn_v")
QKVO = (*QKV, "attn_output")
MLP = ("ffn_gate", "ffn_up", "ffn_down")
LAYER_NORM_EPSILON = "attention.layer_norm_epsilon"
"""The key of norms that subtract the mean."""


# --- Weights that are laid out otherwise ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Made:
    """A weight of a transformers layer that is made of tensors in the file: of several, or of one of another layout."""

    name: str
    of: tuple[str, ...]  # llama.cpp's names within the layer, in the order of `make`'s arguments
    make: Callable[..., Tensor]
    by_config: bool = False
    """`make` takes the model's configuration before the tensors."""


def as_it_is(numbers: Tensor) -> Tensor:
    return numbers


def joined_rows(*parts: Tensor) -> Tensor:
    """Matrices [rows, inputs], or those of all experts [experts, rows, inputs], one below the other; all as large."""
    if len({part.shape for part in parts}) > 1:
        raise ValueError("parts of different shapes")
    return torch.cat(parts, dim=-2)


def as_a_row(numbers: Tensor) -> Tensor:
    """A vector in the files of some converters, a matrix of one row in the model."""
    return numbers.view(1, -1)


def transposed(rows: Tensor) -> Tensor:
    """A matrix, or each matrix of a stack, with rows and columns exchanged."""
    return rows.transpose(-2, -1).contiguous()


def as_a_number(numbers: Tensor) -> Tensor:
    """A tensor without dimensions, of a vector of one."""
    return numbers.view(())


EXPERTS = {"ffn_gate_inp": "mlp.gate"}


def experts(place: str = "mlp.experts") -> tuple[Made, ...]:
    """A mixture's experts, whose gates and ups transformers has in one tensor [experts, rows, inputs]."""
    return (
        Made(f"{place}.gate_up_proj", ("ffn_gate_exps.weight", "ffn_up_exps.weight"), joined_rows),
        Made(f"{place}.gate_up_proj", ("ffn_gate_up_exps.weight",), as_it_is),
        Made(f"{place}.down_proj", ("ffn_down_exps.weight",), as_it_is),
    )


# --- A row of the table -----------------------------------------------------------------------------------------------


def no_more(file: GGUFFile, common: dict[str, Any]) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Architecture:
    """How files have the models of one kind."""

    model_type: str
    settings: Callable[[GGUFFile, dict[str, Any]], dict[str, Any]] = no_more
    """Makes the settings that only these models have, from the file and the settings that all have."""
    keys: frozenset[str] = frozenset()
    """The metadata that `settings` reads, besides what is read for every architecture."""
    layer: Mapping[str, str] = field(default_factory=lambda: LAYER)
    top: Mapping[str, str] = field(default_factory=lambda: TOP)
    layers: str = "model.layers"
    made: Sequence[Made] = ()
    made_on_top: Sequence[Made] = ()
    """The same of weights outside the layers, by their whole names."""
    numbers: Mapping[str, Made] = field(default_factory=dict)
    """Weights of a layer that are single numbers, by the keys under which the metadata has them, one for each layer."""
    sizes_by_layer: frozenset[str] = frozenset()
    """Keys of sizes that may differ from layer to layer; `settings` reads them."""
    has_paired_rows: bool = False
    """Rows of queries and keys are in another order: those that are rotated together lie next to each other."""
    has_qkv_by_head: bool = False
    """The one matrix of queries, keys and values is ordered by heads in transformers; files have all queries first."""
    keeps_states: bool = False
    """Some layers keep a state in place of keys and values, of whose heads they may have 0."""
    has_gated_queries: bool = False
    """Each head's rows of queries are followed by as many of a gate."""
    norm_offset: float = 0.0
    """What the converter has added to the weights of norms."""
    rotates_in_part: bool = False
    """`rope.dimension_count` may be less than the width of a head."""
    has_latents: bool = False
    """Keys and values of all heads are made of latents; `rope.dimension_count` is the width of what is rotated."""
    epsilon: tuple[str, str] = ("attention.layer_norm_rms_epsilon", "rms_norm_eps")
    """The norms' epsilon: the key in the file, and the setting."""
    biases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The settings that give matrices biases, and llama.cpp's names for those matrices."""
    always_biased: Sequence[str] = ()

    def bias_settings(self, file: GGUFFile) -> dict[str, bool]:
        """Whether any layer in the file has biases, by the names of the settings for them."""
        named = {name.split(".", 2)[2] for name in file.tensors if name.startswith("blk.") and name.endswith(".bias")}
        return {setting: not named.isdisjoint(f"{own}.bias" for own in owns) for setting, owns in self.biases.items()}

    def biased(self, config: PreTrainedConfig) -> set[str]:
        """The matrices of each layer that have a bias in transformers' model, by llama.cpp's names."""
        of_settings = [owns for setting, owns in self.biases.items() if getattr(config, setting)]
        return {*self.always_biased, *(own for owns in of_settings for own in owns)}


# --- Settings that several families have ------------------------------------------------------------------------------


def window_of(file: GGUFFile) -> int | None:
    """How many tokens layers with a sliding window look back; None if there are no such layers.

    Raises:
        BadGGUF: they would see themselves alone, which transformers' cache cannot do.
    """
    window: int = file.get(key := f"{file.architecture}.attention.sliding_window", int, -1)
    if window == 1:
        raise BadGGUF(file.path, f"{key} is 1; expected at least 2, or 0 for none")
    return window if 0 < window < 2**31 else None


def required_window(file: GGUFFile) -> int:
    """The same of an architecture in which some layers always have a window.

    Raises:
        BadGGUF: the file names none.
    """
    if (window := window_of(file)) is None:
        raise BadGGUF(file.path, f"expected {file.architecture}.attention.sliding_window, got none")
    return window


def plain_within_windows(file: GGUFFile, everywhere: dict[str, Any], part: float = 1.0) -> dict[str, Any]:
    """The rotary embeddings of layers by their kinds: those with a window do not scale theirs.

    Args:
        everywhere: the scheme of layers without a window.
        part: how much of a head is rotated in layers that have one.
    """
    theta = file.get(f"{file.architecture}.rope.freq_base_swa", float, everywhere["rope_theta"])
    own = {"rope_type": "default", "rope_theta": theta}
    own |= {"partial_rotary_factor": part} if "partial_rotary_factor" in everywhere else {}
    return {"full_attention": everywhere, "sliding_attention": own}


WINDOWS = frozenset({"attention.sliding_window", "attention.sliding_window_pattern"})


def layer_types(
    file: GGUFFile, common: dict[str, Any], every: int, without_is_first: bool = False, window: int | None = None
) -> list[str]:
    """Which layers have a sliding window: as the file lists them, or all but one of `every`; none if it has no window.

    Args:
        without_is_first: the first of every `every` layers has no window, instead of the last.
        window: how far they look back where the file does not say it; None for an architecture that may have no window.

    Raises:
        BadGGUF: the file lists other than one value for each layer.
    """
    layers = common["num_hidden_layers"]
    pattern = file.metadata.get(key := f"{file.architecture}.attention.sliding_window_pattern", every)
    if isinstance(pattern, np.ndarray):
        if len(pattern) != layers:
            raise BadGGUF(file.path, f"{key} has {len(pattern)} entries; expected {layers}, one for each layer")
        slides = [bool(entry) for entry in pattern]
    else:
        period = file.get(key, int, every)
        ahead = 0 if without_is_first else 1
        slides = [period < 1 or (layer + ahead) % period != 0 for layer in range(layers)]
    has_windows = (window_of(file) or window) is not None
    return ["sliding_attention" if has_windows and one_slides else "full_attention" for one_slides in slides]


def mlp_layer_types(common: dict[str, Any], dense: int) -> list[str]:
    """Which layers have experts: all but the first `dense`."""
    return ["dense" if layer < dense else "sparse" for layer in range(common["num_hidden_layers"])]

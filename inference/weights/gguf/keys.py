"""Refuses a GGUF file with metadata that is not read here, since the model would compute other numbers.

The package `gguf` lists the keys that a model may have. A key that is not read for its architecture is refused by name,
unless its value has no effect. Of a key that the package does not list either, there is a warning.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from gguf.constants import Keys

from inference.weights.gguf.file import BadGGUF, GGUFFile

READ = frozenset(
    (
        *("context_length", "embedding_length", "block_count", "feed_forward_length", "rope.dimension_count"),
        *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
        *("attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor"),
        *("rope.scaling.original_context_length", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"),
        "rope.scaling.yarn_attn_factor",
    )
)
"""Keys that are read for every architecture."""
UNUSED = frozenset(
    (
        *("vocab_size", "rope.scaling.finetuned", "tensor_data_layout", "attention.layer_norm_epsilon"),
        "rope.scaling.yarn_ext_factor",  # llama.cpp reads it for Grok alone, and transformers for no model
    )
)
"""Keys that do not matter for these architectures, whatever their values."""
OLD = frozenset({"rope.scale_linear"})
"""Keys that are read, and that the package no longer lists."""
SAMPLES = "general.sampling."
NEUTRAL: Mapping[str, Any] = {
    "attention.causal": True,
    "expert_gating_func": 1,  # softmax
    "logit_scale": 1,
    "residual_scale": 1,
    "embedding_scale": 1,
    "expert_weights_scale": 1,
    "rope.scaling.attn_factor": 1,
}
"""Values without an effect; for any other key it is 0."""


def refuse_unread(file: GGUFFile, own: Collection[str]) -> None:
    """See that the file says nothing that no code here reads. `own` are keys that are read for its architecture.

    Raises:
        BadGGUF: it does; the message names it.
    """
    prefix = f"{file.architecture}."
    for key in sorted(KNOWN - READ - UNUSED - frozenset(own)):
        value = file.metadata.get(prefix + key)
        if value is not None and not _is_neutral(key, value):
            raise BadGGUF(file.path, f"{prefix}{key} is {value}, which is not supported")


def unknown_keys(file: GGUFFile, own: Collection[str]) -> list[str]:
    """What the file says of its model under keys that nothing here knows, newer ones of llama.cpp perhaps.

    The same of how to choose tokens. `own` are keys that are read for its architecture.
    """
    prefix = f"{file.metadata.get('general.architecture')}."
    known = {f"{prefix}{key}" for key in KNOWN | OLD | frozenset(own)} | SAMPLING
    given = {key: value for key, value in file.metadata.items() if key.startswith((prefix, SAMPLES))}
    return [f"{key} {value}"[:80] for key, value in given.items() if key not in known]


def _is_neutral(key: str, value: Any) -> bool:
    return isinstance(value, bool | int | float) and value == NEUTRAL.get(key, 0)


def _known_keys(group: type) -> Iterator[str]:
    """All keys of a model, without its architecture."""
    for template in vars(group).values():
        if isinstance(template, type):
            yield from _known_keys(template)
        elif isinstance(template, str) and template.startswith("{arch}.") and template.count("{") == 1:
            yield template.removeprefix("{arch}.")


KNOWN = frozenset(_known_keys(Keys))
SAMPLING = frozenset(key for key in vars(Keys.General).values() if str(key).startswith(SAMPLES))

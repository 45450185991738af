"""Chooses the context: how many tokens a model was made for, and for how many the cache fits the memory."""

import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig

from inference.cache.sizes import column_count
from inference.weights.memory import free_memory, gibibytes
from interface.errors import LoadError

log = logging.getLogger("engine")

DEFAULT_CONTEXT = 4096
"""The context if the configuration names none, or the most of it if the system does not say what memory is free."""
LEAST_CONTEXT = 512
"""The default is never less, even if memory is short."""
MOST_CONTEXT = 2**20
"""The default is never more: a larger one is probably a mistake in the configuration."""
CONTEXT_STEP = 256
"""What memory allows is rounded down to a multiple of this."""
SHARE = 0.5
"""The part of the memory left free by the weights that the cache may take."""
LENGTHS = ("max_position_embeddings", "max_target_positions")
"""The names of the length that a model was trained at; the second is Whisper's."""
SLIDING = "sliding_attention"
"""The type of layers that look back over a window."""
WITH_A_STATE = ("linear_attention", "conv", "mamba")
"""The types of layers that keep a state in place of keys and values: it does not grow with the text."""
STRETCHED = ("linear", "dynamic", "yarn")
"""Rotary schemes that reach beyond the length that a model was trained at by their factor.

Llama 3's and longrope's models name their whole reach in max_position_embeddings, and so do those of Gemma 3.
"""


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Bytes of a layer's keys and values for one token, and how far back the layer looks; None: to the beginning."""

    bytes_per_token: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class CacheBudget:
    """The memory of the keys and values of `slots` sequences, and of their states."""

    slots: int
    layers: Sequence[LayerCost]
    free_bytes: int | None
    """Memory that is free for it; None if that is not known."""
    state_bytes: int = 0
    """What layers keep of each sequence that does not grow with it."""

    @classmethod
    def of(
        cls,
        config: PreTrainedConfig,
        dtype: torch.dtype,
        device: torch.device,
        slots: int,
        weight_bytes: int,
        forgets: bool = True,
        state_bytes: int = 0,
    ) -> "CacheBudget":
        """The budget of a model whose weights, of `weight_bytes`, have not been loaded yet.

        Args:
            forgets: whether layers with a window forget what no token may see any more.
            state_bytes: of the states of one text.
        """
        free = free_memory(device)
        if free is not None:
            free = int(SHARE * max(0, free - weight_bytes))
        costs = _layer_costs(config.get_text_config(), dtype.itemsize)
        layers = costs if forgets else [LayerCost(layer.bytes_per_token) for layer in costs]
        return cls(slots, layers, free, state_bytes)

    def bytes_for(self, context: int) -> int:
        """Bytes that the cache takes when every slot is full."""
        costs = (layer.bytes_per_token * column_count(context, layer.window) for layer in self.layers)
        return self.slots * (self.state_bytes + sum(costs))

    @property
    def affordable(self) -> int:
        """The longest context that fits."""
        if self.free_bytes is None or not self.bytes_for(1):
            return DEFAULT_CONTEXT
        lengths = range(LEAST_CONTEXT, MOST_CONTEXT + 1, CONTEXT_STEP)
        fitting = bisect_right(lengths, self.free_bytes, key=self.bytes_for)
        return lengths[max(0, fitting - 1)]


def choose_context(wanted: int | None, config: PreTrainedConfig, budget: CacheBudget | None = None) -> int:
    """Return the context to serve: the one asked for, or else the one of the training, as far as the budget allows.

    Raises:
        LoadError: the model does not reach that far.
    """
    text = config.get_text_config()
    reach = reach_of(text)
    if wanted is not None and reach is not None and wanted > reach:
        raise LoadError(f"ENGINE_CONTEXT: expected at most {reach} tokens, for which the model was made, got {wanted}")
    trained = _trained_length(text) or DEFAULT_CONTEXT
    if budget is None:  # the cache is another program's
        return wanted or trained
    context = wanted or min(trained, budget.affordable)
    _announce(context, trained, budget)
    return context


def _announce(context: int, trained: int, budget: CacheBudget) -> None:
    """Log how much memory the cache may take."""
    log.info(
        "Context of %d tokens: the cache takes up to %s, for %d streams",
        *(context, gibibytes(budget.bytes_for(context)), budget.slots),
    )
    if context < trained and context == budget.affordable:
        log.warning(
            "The model's own context is %d tokens, for which half of the free memory is too little. To choose, set "
            "ENGINE_MAX_STREAMS or ENGINE_CONTEXT.",
            trained,
        )


def reach_of(text: PreTrainedConfig) -> int | None:
    """The most tokens that the configuration of a model of texts provides for; None if it does not say."""
    trained = _trained_length(text)
    rope: Any = getattr(text, "rope_parameters", None)
    if trained is None or not isinstance(rope, dict) or text.model_type.startswith("gemma3"):
        return trained
    factor = rope.get("factor")
    if rope.get("rope_type") not in STRETCHED or not isinstance(factor, int | float):
        return trained
    original = rope.get("original_max_position_embeddings") or trained
    return max(trained, int(original * factor))


def _trained_length(text: PreTrainedConfig) -> int | None:
    """The length that a model was trained at; None if its configuration does not say."""
    return next(filter(None, (_number(text, name) for name in LENGTHS)), None)


def _layer_costs(text: PreTrainedConfig, number_size: int) -> list[LayerCost]:
    """The cost of each layer, for numbers of `number_size` bytes."""
    count = _number(text, "num_hidden_layers")
    layers = [text.per_layer_config[number] if text.is_heterogeneous else text for number in range(count)]
    kinds = getattr(text, "layer_types", None) or [None] * count
    return [
        LayerCost(_numbers_of(layer) * number_size, _window_of(layer) if kind in (None, SLIDING) else None)
        for layer, kind in zip(layers, kinds, strict=False)
        if kind not in WITH_A_STATE
    ]


def _window_of(layer: PreTrainedConfig) -> int | None:
    window = _number(layer, "sliding_window") if getattr(layer, "use_sliding_window", True) else 0
    return window or None


def _numbers_of(layer: PreTrainedConfig) -> int:
    """How many numbers a token's keys and values are in a layer."""
    heads = _number(layer, "num_attention_heads") or 1
    head_dim = _number(layer, "head_dim") or _number(layer, "hidden_size") // heads
    return 2 * head_dim * (_number(layer, "num_key_value_heads") or heads)


def _number(text: PreTrainedConfig, name: str) -> int:
    """One of the configuration's sizes; 0 if it is missing, or a list with one for each layer."""
    value: Any = getattr(text, name, None)
    return value if isinstance(value, int) and value > 0 else 0

"""What layers keep of a text that do not attend to its tokens: a state of fixed size, which each token changes.

Layers with linear attention, state spaces or convolutions do so. There is no way back from a state to that of a shorter
text. So a text can be continued where it ends, and nowhere else, and each slot has states of its own. They lie in a
cache of transformers for each slot, where the models find them; keys and values lie in `Rows`, as for other models.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    DynamicLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionCacheLayerMixin,
)

from inference.cache.rows import Rows
from inference.cache.storage import Span
from inference.scheduling.cache_manager import Retention


class _Attending(DynamicLayer):  # type: ignore[no-untyped-call]
    """An attention layer without memory: the model gets a step's new keys and values, for `slot_attention`."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *arguments: Any, **settings: Any
    ) -> tuple[Tensor, Tensor]:
        return key_states, value_states


class _AttendingWithState(LinearAttentionAndFullAttentionLayer):  # type: ignore[no-untyped-call]
    """The same of a layer that has a state as well."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *arguments: Any, **settings: Any
    ) -> tuple[Tensor, Tensor]:
        return key_states, value_states


def has_states(config: PreTrainedConfig) -> bool:
    """Whether some of a model's layers keep a state."""
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in DynamicCache(config=config).layers)


def attends(states: Cache) -> bool:
    """Whether the model of a slot's states has attention as well."""
    return any(isinstance(layer, CacheLayerMixin) for layer in states.layers)


def _no_text_yet(config: PreTrainedConfig) -> Cache:
    """The states at the beginning of a text."""
    return Cache([_without_keys(layer) for layer in DynamicCache(config=config).layers])


def _without_keys(layer: Any) -> Any:
    if not isinstance(layer, LinearAttentionCacheLayerMixin):
        return layer if isinstance(layer, DummyLayer) else _Attending()  # type: ignore[no-untyped-call]
    if not isinstance(layer, CacheLayerMixin):
        return layer
    return _AttendingWithState(number_of_states=layer.number_of_states)


def _together(of_texts: Sequence[Any]) -> Any:
    """A layer with the states of several texts."""
    first = of_texts[0]
    if not isinstance(first, LinearAttentionCacheLayerMixin):
        return first
    layer = copy.copy(first)
    layer.conv_states = _rows([of_text.conv_states for of_text in of_texts])
    layer.recurrent_states = _rows([of_text.recurrent_states for of_text in of_texts])
    return layer


def _rows(of_texts: Sequence[Mapping[int, Tensor | None]]) -> dict[int, Tensor | None]:
    """The states of several texts in the order of these, each [texts, ...]. All texts have the same ones."""
    return {
        kind: None if state is None else torch.cat([cast("Tensor", of_text[kind]) for of_text in of_texts])
        for kind, state in of_texts[0].items()
    }


def _take_row(row: int, layer: Any, of_all: Any) -> None:
    """Copy a text's states back to its own layer."""
    if not isinstance(layer, LinearAttentionCacheLayerMixin):
        return
    for own, rows in ((layer.conv_states, of_all.conv_states), (layer.recurrent_states, of_all.recurrent_states)):
        for kind, state in own.items():
            if state is not None:
                state.copy_(rows[kind][row : row + 1])


class RowsAndStates:
    """A cache's storage for a model whose layers have states: its rows, and the states of each slot."""

    shares_beginnings, appends = False, False
    retention = Retention(whole=0, behind=0)

    def __init__(self, rows: Rows, slots: int, config: PreTrainedConfig) -> None:
        self._rows = rows
        self._config = config
        self._states = [_no_text_yet(config) for _ in range(slots)]

    @contextmanager
    def of(self, slots: Sequence[int]) -> Iterator[Cache]:
        """The states of a text, or those of several that have begun, each in a row of its own; a forward changes them.

        Several are copied together, and back, which costs less than a step of each text by itself.
        """
        texts = [self._states[slot] for slot in slots]
        if len(texts) == 1:
            yield texts[0]
            return
        layers = [_together(of_texts) for of_texts in zip(*(text.layers for text in texts), strict=True)]
        yield Cache(layers)
        for row, text in enumerate(texts):
            for layer, of_all in zip(text.layers, layers, strict=True):
                _take_row(row, layer, of_all)

    def provide(self) -> None:
        """Do nothing, as `Rows`."""

    def reserve(self, slot: int, first: int, last: int) -> None:
        self._rows.reserve(slot, first, last)
        if first == 0:
            self._states[slot] = _no_text_yet(self._config)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy a whole text: `retention` says that no shorter beginning is there."""
        self._rows.copy(source, target, length)
        self._states[target] = copy.deepcopy(self._states[source])

    def are_finite(self, spans: Sequence[Span]) -> list[bool]:
        of_rows = self._rows.are_finite(spans)
        return [
            are_keys_finite and all(bool(state.isfinite().all()) for state in tensors_of(self._states[slot]))
            for are_keys_finite, (slot, _, _) in zip(of_rows, spans, strict=True)
        ]

    @property
    def bytes(self) -> int:
        return self._rows.bytes + self.state_bytes

    @property
    def state_bytes(self) -> int:
        of_slots = [sum(state.nbytes for state in tensors_of(states)) for states in self._states]
        return len(of_slots) * max(of_slots)


def tensors_of(states: Cache) -> list[Tensor]:
    """All of a slot's states that there are."""
    layers = [layer for layer in states.layers if isinstance(layer, LinearAttentionCacheLayerMixin)]
    found = (
        state for layer in layers for kind in (layer.conv_states, layer.recurrent_states) for state in kind.values()
    )
    return [state for state in found if state is not None]

"""Computes a batch with a transformers model: its own forward, of any architecture, with our attention and products."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from inference.cache.attention import forward_context
from inference.cache.attention_modules import use_slot_attention
from inference.cache.batch import Batch
from inference.cache.states import attends
from inference.decoders.compilation import as_compiled, compile_layers, uncompile_layers
from inference.decoders.decoder import TryOut
from inference.decoders.packed_modules import pack_linears
from inference.decoders.start_check.model_alone import name_of_cache, takes_logits_to_keep

log = logging.getLogger("engine")


class TransformersDecoder:
    """A model of transformers, which is changed for good: it gets slot attention and packed weights."""

    has_same_bits = False

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._takes_logits_to_keep = takes_logits_to_keep(model)
        self._takes_states_as = name_of_cache(model)
        self._run_as_compiled: Callable[[], AbstractContextManager[Any]] = nullcontext
        use_slot_attention(model)
        pack_linears(model)

    @property
    def name(self) -> str:
        how = "" if self._run_as_compiled is nullcontext else ", its layers compiled by torch"
        return f"transformers' own forward{how}"

    def forward(self, batch: Batch, states: Cache | None = None) -> Tensor:
        """Return the logits [sampled, vocabulary], and write the new keys and values to the cache.

        Args:
            states: of the batch's texts; they are changed. The batch is a part of one text, or a token of each of them.

        Raises:
            NotImplementedError: the model does not attend through the interface that our attention is put into.
        """
        token_ids, positions = batch.token_ids, batch.positions
        has_a_row_each = states is not None and not batch.segments
        if has_a_row_each:
            token_ids, positions = token_ids.T, positions.T
        wanted = {"logits_to_keep": batch.sampled} if self._takes_logits_to_keep and not has_a_row_each else {}
        kept = {} if states is None else {self._takes_states_as: states}
        with forward_context(batch), self._run_as_compiled():
            output = self._model(
                input_ids=token_ids,
                # Nothing is padding. Without a mask, transformers would take the jumps in the positions for borders.
                attention_mask=torch.ones_like(token_ids),
                position_ids=positions,
                use_cache=states is not None,
                **wanted,
                **kept,
            )
        if not batch.used and (states is None or attends(states)):
            raise NotImplementedError(
                "its layers do not attend through transformers' AttentionInterface, which the cache is filled through. "
                "Expected a decoder that keeps only its layers' keys and values, or states."
            )
        logits: Tensor = output.logits.flatten(0, 1)
        return logits if wanted else logits[batch.sampled]

    def compile(self, try_out: TryOut) -> None:
        """Let torch compile the layers; `try_out` runs every graph that there will be.

        Raises:
            Exception: whatever the compiler or `try_out` raised; the model then runs uncompiled.
        """
        log.info("Compiling the model's layers: a minute or less the first time, seconds after that …")
        began = time.perf_counter()
        try:
            compile_layers(self._model)
            try_out(self)
        except Exception:
            uncompile_layers(self._model)
            raise
        self._run_as_compiled = as_compiled
        log.info("Compiled after %.1f s", time.perf_counter() - began)

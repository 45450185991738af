"""Computes a batch with a transformers model: its own forward, of any architecture, with our attention and products."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from inference.cache.attention import attending, use_slot_attention
from inference.cache.batch import Batch, Visible
from inference.decoders.compilation import as_compiled, compile_layers, uncompile_layers
from inference.decoders.packed_modules import pack_linears
from interface.request import UnsupportedModel


class TransformersDecoder:
    """A model that is switched to slot attention and packed weights, for good."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._takes_logits_to_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._seen: list[Visible] = []  # how the layers looked back at the last forward
        self._run_as_compiled: Callable[[], AbstractContextManager[Any]] = nullcontext
        use_slot_attention(model)
        pack_linears(model)

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits [sampled, vocabulary], and write the new keys and values to the cache."""
        wanted = {"logits_to_keep": batch.sampled} if self._takes_logits_to_keep else {}
        with attending(batch), self._run_as_compiled():
            output = self._model(
                input_ids=batch.token_ids,
                # Nothing is padding. Without a mask, transformers would take the jumps in the positions for borders.
                attention_mask=torch.ones_like(batch.token_ids),
                position_ids=batch.positions,
                use_cache=False,
                **wanted,
            )
        self._seen = [batch.visibilities[number] for number in set(batch.used.values())]
        logits: Tensor = output.logits[0]
        return logits if wanted else logits[batch.sampled]

    def refuse_unseen_window(self, context: int) -> None:
        """A window kept in a model's masks alone never reaches our attention, and five tokens do not show it.

        To be called after a forward.

        Raises:
            UnsupportedModel: the model declares a window that its layers did not ask for.
        """
        config = self._model.config.get_text_config()
        declared = [getattr(config, "attention_chunk_size", None)]
        if getattr(config, "use_sliding_window", True):
            declared.append(getattr(config, "sliding_window", None))
        for window in declared:
            if window is not None and window < context and not self._hides(window):
                raise UnsupportedModel(
                    f"{type(self._model).__name__} looks back {window} tokens in a way that this engine does not see. "
                    f"Up to there it runs right: set the context to {window} (ENGINE_CONTEXT={window})."
                )

    def _hides(self, window: int) -> bool:
        """Whether some layer's token at position `window` does not see the first one any more."""
        return not all(bool(seen(torch.tensor(window), torch.tensor(0))) for seen in self._seen)

    def compile(self, try_out: Callable[[], None]) -> None:
        """Let torch compile the layers; `try_out` runs every graph that there will be.

        Raises:
            Exception: whatever the compiler or `try_out` raised; the model then runs uncompiled.
        """
        try:
            compile_layers(self._model)
            try_out()
        except Exception:
            uncompile_layers(self._model)
            raise
        self._run_as_compiled = as_compiled

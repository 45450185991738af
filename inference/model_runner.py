"""Runs the model over a schedule: the only part that calls a forward, and the owner of the cache's tensors."""

import inspect
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from inference.attention import attending, use_slot_attention
from inference.batch import Batch, pack
from inference.compilation import as_compiled, compile_layers, uncompile_layers
from inference.kv_cache import KVCache
from inference.linear import pack_linears
from inference.request import EncodedRequest, GenerationRequest, LoadError
from inference.scheduler import Chunk, Schedule
from inference.sequence import Sequence

log = logging.getLogger("engine")

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""How far a logit may be from the model's own, relative to the largest, before the model counts as unsupported."""


class UnsupportedModel(LoadError):
    """The model does not give the same logits through the slot cache as by itself."""


class ModelRunner:
    """A causal language model over a cache of slots.

    Raises:
        UnsupportedModel: the model cannot run this way; found out by trying, when the runner is made.
    """

    def __init__(self, model: PreTrainedModel, slots: int, context: int, is_compiled: bool = False) -> None:
        self._model = model
        self._device = model.device
        self._cache = KVCache(slots, context)
        self._takes_logits_to_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._windows: set[int | None] = set()
        self._run_as_compiled: Callable[[], AbstractContextManager[Any]] = nullcontext
        self._prepare(is_compiled)

    @property
    def vocabulary(self) -> int:
        """How many token ids the model knows."""
        weight = self._model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)  # [vocabulary, hidden]
        return weight.shape[0]

    @property
    def cache_bytes(self) -> int:
        return self._cache.bytes

    @torch.inference_mode()
    def forward(self, schedule: Schedule) -> Tensor:
        """Return the logits [sampled, vocabulary] of `schedule.sampled`, in one forward for all its tokens."""
        logits = self._forward(pack(schedule, self._cache, self._device))
        for sequence in schedule.decoding:
            sequence.cached_tokens += 1
        for chunk in schedule.chunks:
            chunk.sequence.cached_tokens = chunk.end
        return logits

    def _forward(self, batch: Batch) -> Tensor:
        wanted = {"logits_to_keep": batch.sampled} if self._takes_logits_to_keep else {}
        with attending(batch), self._run_as_compiled():
            output = self._model(input_ids=batch.token_ids, position_ids=batch.positions, use_cache=False, **wanted)
        self._windows = batch.windows
        logits: Tensor = output.logits[0]
        return logits if wanted else logits[batch.sampled]

    @torch.inference_mode()
    def _prepare(self, is_compiled: bool) -> None:
        """Switch the model to slot attention, and see that a short prompt gives the same logits as before.

        An architecture that keeps other state than keys and values, or adds something of its own to the scores,
        would go on silently and write nonsense; better to say so at the start.
        """
        token_ids = list(range(1, 1 + min(5, self._cache.context)))
        expected = self._model(torch.tensor([token_ids], device=self._device), use_cache=False).logits[0, -2:]
        try:
            use_slot_attention(self._model)
            pack_linears(self._model)
            self._verify(token_ids, expected)
        except (NotImplementedError, TypeError, ValueError) as error:
            raise UnsupportedModel(
                f"{type(self._model).__name__} cannot run on this engine's cache: {error}"
            ) from error
        self._refuse_unseen_window()
        if is_compiled:
            self._compile(token_ids, expected)

    def _refuse_unseen_window(self) -> None:
        """A window kept in a model's masks alone never reaches our attention, and five tokens do not show it."""
        config = self._model.config.get_text_config()
        declared = [getattr(config, "attention_chunk_size", None)]
        if getattr(config, "use_sliding_window", True):
            declared.append(getattr(config, "sliding_window", None))
        for window in declared:
            if window is not None and window < self._cache.context and window not in self._windows:
                raise UnsupportedModel(
                    f"{type(self._model).__name__} looks back {window} tokens in a way that this engine does not see. "
                    f"Up to there it runs right: set the context to {window} (ENGINE_CONTEXT={window})."
                )

    def _verify(self, token_ids: list[int], expected: Tensor) -> None:
        got = self._logits_in_pieces(token_ids)
        difference = ((got - expected).abs().max() / expected.abs().max()).item()
        if not difference <= TOLERANCE[expected.dtype]:
            raise UnsupportedModel(
                f"{type(self._model).__name__} gives other logits on this engine's cache than by itself (by "
                f"{difference:.1%} of the largest). Expected a decoder that keeps only the keys and values of layers."
            )

    def _compile(self, token_ids: list[int], expected: Tensor) -> None:
        """Make every graph that there will be; whatever goes wrong, the model runs uncompiled."""
        log.info("Compiling the model's layers: a minute or less the first time, seconds after that …")
        began = time.perf_counter()
        try:
            compile_layers(self._model)
            self._verify(token_ids, expected)  # a chunk, a single token: both graphs
        except Exception as error:  # no compiler, a broken one, an operator that it does not know
            uncompile_layers(self._model)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("The model could not be compiled, so it runs as it is: %s", reason)
        else:
            self._run_as_compiled = as_compiled
            log.info("Compiled after %.1f s", time.perf_counter() - began)

    def _logits_in_pieces(self, token_ids: list[int]) -> Tensor:
        """The logits [2, vocabulary] of the last two tokens: one ends a prompt of two chunks, one is decoded."""
        prompt_ids, last_id = token_ids[:-1], token_ids[-1]
        request = EncodedRequest(GenerationRequest(prompt="-"), prompt_ids)
        sequence = Sequence(0, request, sink=print, decode=lambda ids: "", eos_ids=())
        sequence.admit(self._cache.slots - 1)
        middle, end = len(prompt_ids) // 2, len(prompt_ids)
        if middle:
            self.forward(Schedule([], [Chunk(sequence, 0, middle)]))
        prefilled = self.forward(Schedule([], [Chunk(sequence, middle, end)]))
        sequence.append(last_id)
        return torch.cat([prefilled, self.forward(Schedule([sequence], []))])

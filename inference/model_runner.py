"""Runs the model over a schedule: the only part that calls a forward, and the owner of the cache's tensors."""

import inspect

import torch
from torch import Tensor
from transformers import PreTrainedModel

from inference.attention import SLOT_ATTENTION
from inference.batch import Batch, pack
from inference.kv_cache import KVCache
from inference.linear import pack_linears
from inference.request import EncodedRequest, GenerationRequest, LoadError
from inference.scheduler import Chunk, Schedule
from inference.sequence import Sequence

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""How far a logit may be from the model's own, relative to the largest, before the model counts as unsupported."""


class UnsupportedModel(LoadError):
    """The model does not give the same logits through the slot cache as by itself."""


class ModelRunner:
    """A causal language model over a cache of slots.

    Raises:
        UnsupportedModel: the model cannot run this way; found out by trying, when the runner is made.
    """

    def __init__(self, model: PreTrainedModel, slots: int, context: int) -> None:
        self._model = model
        self._device = model.device
        self._cache = KVCache(slots, context)
        self._takes_logits_to_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._verify()

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
        output = self._model(
            input_ids=batch.token_ids, position_ids=batch.positions, use_cache=False, batch=batch, **wanted
        )
        logits: Tensor = output.logits[0]
        return logits if wanted else logits[batch.sampled]

    @torch.inference_mode()
    def _verify(self) -> None:
        """Switch the model to slot attention, and see that a short prompt gives the same logits as before.

        An architecture that keeps other state than keys and values, or adds something of its own to the scores,
        would go on silently and write nonsense; better to say so at the start.
        """
        token_ids = list(range(1, 1 + min(5, self._cache.context)))
        name = type(self._model).__name__
        expected = self._model(torch.tensor([token_ids], device=self._device), use_cache=False).logits[0, -2:]
        try:
            self._model.set_attn_implementation(SLOT_ATTENTION)
            pack_linears(self._model)
            got = self._logits_in_pieces(token_ids)
        except (NotImplementedError, TypeError, ValueError) as error:
            raise UnsupportedModel(f"{name} cannot run on this engine's cache: {error}") from error
        difference = ((got - expected).abs().max() / expected.abs().max()).item()
        if not difference <= TOLERANCE[expected.dtype]:
            raise UnsupportedModel(
                f"{name} gives other logits on this engine's cache than by itself (by {difference:.1%} of the "
                f"largest). Expected a decoder that keeps only the keys and values of every layer."
            )

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

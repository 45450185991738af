"""Runs the model over a schedule: the owner of the cache's tensors and of the decoder that computes a step.

Which decoder that is, and whether it gives the model's own logits, is the business of `decoders.select`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inference.affinity import leave_own_processor
from inference.cache.kv_cache import KVCache
from inference.cache.layout import batch_of
from inference.choosers import chooser_for, device_chooser_for
from inference.decoders.ahead import Ahead, AheadDecoder
from inference.decoders.select import select_decoder
from inference.sampling.choose import top_logits_of
from inference.sampling.draw import choose
from inference.sampling.logprobs import prompt_logprobs
from inference.sampling.sampler import Sampled, sample
from inference.scheduling.cache_manager import Retention
from inference.scheduling.sample_args import SampleArgs
from inference.scheduling.scheduler import Schedule
from inference.weights.llama import Llama
from interface.errors import UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ModelRunner:
    """A causal language model over a cache of slots.

    Raises:
        UnsupportedModel: the model cannot run on this engine, as a trial has shown.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: "PreTrainedModel | Llama",
        slots: int,
        context: int,
        is_compiled: bool,
        quantize: str | None = None,
    ) -> None:
        leave_own_processor()  # where the steps of an earlier engine may have put this thread
        self._device, dtype = model.device, model.dtype
        self.vocabulary = _vocabulary(model)
        with ThreadPoolExecutor(1) as pool:  # two compilers at once: a start is a second shorter
            chooser = pool.submit(chooser_for, self._device, is_compiled, torch.get_num_threads())
            try:
                self._cache = KVCache(slots, context)
                self._decoder = select_decoder(model, self._cache, is_compiled, quantize)
            except (MemoryError, torch.OutOfMemoryError) as error:
                raise UnsupportedModel(
                    f"The cache for {slots} streams of {context} tokens does not fit the memory. Choose less with "
                    f"ENGINE_MAX_STREAMS or ENGINE_CONTEXT."
                ) from error
            self._choose = chooser.result()
        choose_on_device = device_chooser_for(self._device, is_compiled, self.vocabulary, dtype, slots)
        self._ahead = (
            Ahead(self._decoder, self._cache, choose_on_device, self._device)
            if isinstance(self._decoder, AheadDecoder)
            else None
        )
        if self._ahead is not None:
            self._choose = self._ahead.choose
        elif self.is_on_gpu:
            self._choose = functools.partial(choose, choose_on_device=choose_on_device)
        leave_own_processor()  # where the trial has put it: the thread that is started next would stay there
        self._cache.storage.provide()

    @property
    def is_on_gpu(self) -> bool:
        return self._device.type == "cuda"

    @property
    def retention(self) -> Retention:
        """How much of a text a slot still holds after it has been computed."""
        return self._cache.storage.retention

    @property
    def shares_beginnings(self) -> bool:
        """Whether texts that begin alike share memory, so that copying a beginning takes next to no time."""
        return self._cache.storage.shares_beginnings

    @property
    def has_same_bits(self) -> bool:
        """Whether a token's logits are the same to the bit, whatever else a step computes."""
        return self._decoder.has_same_bits

    @property
    def decoder_name(self) -> str:
        """A few words that name the decoder."""
        return self._decoder.name

    @torch.inference_mode()
    def step(self, schedule: Schedule, rows: Sequence[SampleArgs]) -> Sampled:
        """Compute a schedule, and choose a token for each row of `schedule.sampled` as `rows` say."""
        logits = self.forward(schedule)
        row = len(rows)
        for chunk in schedule.chunks:
            scored = logits[row : row + len(chunk.scored_ids)]
            row += len(scored)
            count = chunk.sequence.prompt_top_logprobs
            logprobs = prompt_logprobs(scored, chunk.scored_ids, count, top_logits_of(self._choose))
            chunk.sequence.add_prompt_logprobs(logprobs)
        sampled = sample(logits[: len(rows)], rows, self._choose)
        return dataclasses.replace(sampled, broken_chunks=self._broken_chunks(schedule))

    def _broken_chunks(self, schedule: Schedule) -> frozenset[int]:
        """Find the chunks that left NaN or infinite keys in the cache.

        The logits of a prompt's last token do not show all of them: a window may hide a broken token from it, and other
        sequences may copy from the slot before the prompt is complete.
        """
        pieces = [(chunk.sequence.slot, chunk.start, chunk.end) for chunk in schedule.chunks]
        are_finite = self._cache.storage.are_finite(pieces)
        return frozenset(number for number, is_finite in enumerate(are_finite) if not is_finite)

    @torch.inference_mode()
    def forward(self, schedule: Schedule) -> Tensor:
        """Return the logits [sampled, vocabulary] of `schedule.sampled`, in one forward for all its tokens.

        After them come the logits for the log probabilities of prompt tokens: see `Chunk.scored_ids`.
        """
        logits = None if self._ahead is None else self._ahead.claim(schedule)
        if logits is None:
            logits = self._compute(schedule)
        for sequence in schedule.decoding:
            sequence.cached_tokens += 1
        for chunk in schedule.chunks:
            chunk.sequence.cached_tokens = chunk.end
        return logits

    def _compute(self, schedule: Schedule) -> Tensor:
        for copy in schedule.copies:
            self._cache.storage.copy(copy.source, copy.sequence.slot, copy.end)
        if self._ahead is not None:
            self._ahead.record(schedule)
        return self._decoder.forward(batch_of(schedule, self._cache, self._device))


def _vocabulary(model: "PreTrainedModel | Llama") -> int:
    """The number of rows of a model's embedding."""
    if isinstance(model, Llama):
        return model.embedding.shape[0]
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)  # [vocabulary, hidden]
    return weight.shape[0]

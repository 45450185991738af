"""Runs the model over a schedule: the owner of the cache's tensors and of the decoder that computes a step.

The model's own code in transformers, with our attention and matrix products, serves any architecture. If compiling is
asked for, a decoder in C++ takes its place for the architectures that it knows, and torch compiles the layers of all
others; on a GPU, decode steps become CUDA graphs. Each must give the logits that the model gives by itself, or is not
used.
"""

import logging
import time
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from inference.batch import Batch, pack
from inference.cuda_graphs import GraphedDecoder, captured, has_graphs
from inference.kv_cache import KVCache
from inference.native.build import CannotBuild
from inference.native.decoder import NativeDecoder, NotNative
from inference.quantization import round_weights
from inference.request import EncodedRequest, GenerationRequest, UnsupportedModel
from inference.scheduler import Chunk, Schedule
from inference.sequence import Sequence
from inference.transformers_decoder import TransformersDecoder

log = logging.getLogger("engine")

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""How far a logit may be from the model's own, relative to the largest, before the model counts as unsupported."""


class Decoder(Protocol):
    """Computes a batch: the logits [sampled, vocabulary], and the new tokens' keys and values in the cache."""

    def forward(self, batch: Batch) -> Tensor: ...


class ModelRunner:
    """A causal language model over a cache of slots.

    Raises:
        UnsupportedModel: the model cannot run this way; found out by trying, when the runner is made.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        slots: int,
        context: int,
        is_compiled: bool = False,
        is_quantized: bool = False,
    ) -> None:
        weight = model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)  # [vocabulary, hidden]
        self.vocabulary = weight.shape[0]
        self._device = model.device
        self._cache = KVCache(slots, context)
        self._is_quantized = is_quantized
        self._decoder: Decoder
        self._prepare(model, is_compiled)

    @property
    def cache_bytes(self) -> int:
        return self._cache.bytes

    @torch.inference_mode()
    def forward(self, schedule: Schedule) -> Tensor:
        """Return the logits [sampled, vocabulary] of `schedule.sampled`, in one forward for all its tokens."""
        logits = self._decoder.forward(pack(schedule, self._cache, self._device))
        for sequence in schedule.decoding:
            sequence.cached_tokens += 1
        for chunk in schedule.chunks:
            chunk.sequence.cached_tokens = chunk.end
        return logits

    @torch.inference_mode()
    def _prepare(self, model: PreTrainedModel, is_compiled: bool) -> None:
        """Choose a decoder, and see that a short prompt gives the same logits as the model by itself.

        An architecture that keeps other state than keys and values, or adds something of its own to the scores,
        would go on silently and write nonsense; better to say so at the start.
        """
        token_ids = list(range(1, 1 + min(5, self._cache.context)))
        if self._is_quantized:
            if not is_compiled:
                raise UnsupportedModel("Weights in eight bits need the compiled decoder: set ENGINE_COMPILE=1 too.")
            round_weights(model)  # from here on, this is the model that a decoder must agree with
        expected = model(torch.tensor([token_ids], device=self._device), use_cache=False).logits[0, -2:]
        if is_compiled:
            try:
                self._use_native(model, token_ids, expected)
            except (NotNative, CannotBuild, UnsupportedModel) as error:
                if self._is_quantized:
                    raise UnsupportedModel(f"Weights in eight bits need the compiled decoder: {error}") from error
                if isinstance(error, NotNative):
                    log.info("Not compiled as a whole, but layer by layer: %s", error)
                else:
                    log.warning("The model could not be compiled, so it runs as it is: %s", error)
                    is_compiled = False
            else:
                return
        decoder = self._use_transformers(model, token_ids, expected)
        if is_compiled:
            self._compile(decoder, token_ids, expected)

    def _use_native(self, model: PreTrainedModel, token_ids: list[int], expected: Tensor) -> None:
        began = time.perf_counter()
        self._decoder = decoder = NativeDecoder(model, self._cache, self._is_quantized)
        self._verify(type(model).__name__, token_ids, expected)
        log.info(
            "Compiled as a whole, in %.1f s; weights and cache take %.2f GB",
            time.perf_counter() - began,
            decoder.bytes / 1e9,
        )

    def _use_transformers(self, model: PreTrainedModel, token_ids: list[int], expected: Tensor) -> TransformersDecoder:
        try:
            self._decoder = decoder = TransformersDecoder(model)
            self._verify(type(model).__name__, token_ids, expected)
        except (NotImplementedError, TypeError, ValueError) as error:
            raise UnsupportedModel(f"{type(model).__name__} cannot run on this engine's cache: {error}") from error
        decoder.refuse_unseen_window(self._cache.context)
        return decoder

    def _compile(self, decoder: TransformersDecoder, token_ids: list[int], expected: Tensor) -> None:
        """Make every graph that there will be; whatever goes wrong, the model runs uncompiled."""
        began = time.perf_counter()
        try:
            if has_graphs(self._device):
                log.info("Making CUDA graphs of the decode steps …")
                self._decoder = GraphedDecoder(decoder, self._cache, self._device, captured)
                self._verify("The model in CUDA graphs", token_ids, expected)
            else:
                log.info("Compiling the model's layers: a minute or less the first time, seconds after that …")
                # A chunk, a single token: both graphs.
                decoder.compile(lambda: self._verify("The compiled model", token_ids, expected))
        except Exception as error:  # no compiler, a broken one, an operator that it does not know
            self._decoder = decoder
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("The model could not be compiled, so it runs as it is: %s", reason)
        else:
            log.info("Compiled after %.1f s", time.perf_counter() - began)

    def _verify(self, name: str, token_ids: list[int], expected: Tensor) -> None:
        got = self._logits_in_pieces(token_ids)
        difference = ((got - expected).abs().max() / expected.abs().max()).item()
        if not difference <= TOLERANCE[expected.dtype]:
            raise UnsupportedModel(
                f"{name} gives other logits on this engine's cache than by itself (by "
                f"{difference:.1%} of the largest). Expected a decoder that keeps only the keys and values of layers."
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

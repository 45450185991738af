"""Runs the model over a schedule: the owner of the cache's tensors and of the decoder that computes a step.

There are three decoders, and a model gets the quickest that can compute it. A Llama-type model is taken apart: its
weights go to one of our own, in C++ if compiling is asked for, else in operators of torch. Any other runs the code that
transformers has for it, with our attention and matrix products; compiled, torch compiles its layers. On a GPU,
compiling means CUDA graphs of the decode steps. Only the decoder in C++ reads matrices in eight bits. Each decoder must
give the logits that the model gives by itself, to rounding.
"""

import logging
import time

import torch
from torch import Tensor
from transformers import PreTrainedModel

from inference.cache.batch import Decoder, pack
from inference.cache.kv_cache import KVCache
from inference.decoders.cuda_graphs import GraphedDecoder, captured, has_graphs
from inference.decoders.native.build import CannotBuild
from inference.decoders.native.decoder import NativeDecoder, NotNative, build_for
from inference.decoders.torch_decoder import TorchDecoder
from inference.decoders.transformers_decoder import TransformersDecoder
from inference.scheduling.scheduler import Chunk, Schedule
from inference.scheduling.sequence import Sequence
from inference.weights import llama
from interface.request import EncodedRequest, GenerationRequest, UnsupportedModel

log = logging.getLogger("engine")

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""How far a logit may be from the model's own, relative to the largest, before the model counts as unsupported."""
QUANTIZED_TOLERANCE = 0.2
"""The same where weights are rounded to eight bits."""


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
        self._decoder: Decoder
        self._is_quantized = is_quantized
        self._prepare(model, is_compiled or is_quantized)

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
        expected = self._own_logits(model)
        name = type(model).__name__
        try:
            self._decoder = self._chosen(model, is_compiled)
            self._verify(name, expected)
        except (NotImplementedError, TypeError, ValueError) as error:
            raise UnsupportedModel(f"{name} cannot run on this engine's cache: {error}") from error
        if isinstance(self._decoder, TransformersDecoder):
            self._decoder.refuse_unseen_window(self._cache.context)
        if is_compiled and has_graphs(self._device):
            self._make_graphs(expected)
        elif is_compiled and isinstance(self._decoder, TransformersDecoder):
            self._compile_layers(self._decoder, expected)

    def _chosen(self, model: PreTrainedModel, is_compiled: bool) -> Decoder:
        try:
            llama.check(model, self._cache.context)
            if is_compiled:
                return self._native(model)
        except (llama.NotLlama, NotNative, CannotBuild) as reason:
            if self._is_quantized:
                raise UnsupportedModel(f"int8 needs the decoder in C++, and there is none here: {reason}") from reason
            if isinstance(reason, CannotBuild):
                log.warning("The model runs uncompiled: %s", reason)
            elif is_compiled:
                log.info("No decoder in C++ for this model: %s", reason)
            if isinstance(reason, llama.NotLlama):
                return TransformersDecoder(model)
        return TorchDecoder(llama.take_apart(model, self._cache.columns))

    def _native(self, model: PreTrainedModel) -> NativeDecoder:
        """The decoder in C++ for a model that has passed `llama.check`, left as it is if there can be none.

        Raises:
            NotNative, CannotBuild: see `build_for`.
        """
        began = time.perf_counter()
        library = build_for(model, self._is_quantized)
        log.info("Compiled the decoder in %.1f s", time.perf_counter() - began)
        return NativeDecoder(library, llama.take_apart(model, self._cache.columns), self._cache, self._is_quantized)

    def _make_graphs(self, expected: Tensor) -> None:
        decoder = self._decoder
        try:
            log.info("Making CUDA graphs of the decode steps …")
            self._decoder = GraphedDecoder(decoder, self._cache, self._device, captured)
            self._verify("The model in CUDA graphs", expected)
        except Exception as error:  # an operator that cannot be captured
            self._decoder = decoder
            log.warning("The model runs without CUDA graphs: %s", _first_line(error))

    def _compile_layers(self, decoder: TransformersDecoder, expected: Tensor) -> None:
        """Let torch make every graph that there will be; whatever goes wrong, the model runs uncompiled."""
        log.info("Compiling the model's layers: a minute or less the first time, seconds after that …")
        began = time.perf_counter()
        try:
            # A chunk, a single token: both graphs.
            decoder.compile(lambda: self._verify("The compiled model", expected))
        except Exception as error:  # no compiler, a broken one, an operator that it does not know
            log.warning("The model runs uncompiled: %s", _first_line(error))
        else:
            log.info("Compiled after %.1f s", time.perf_counter() - began)

    @property
    def _trial(self) -> list[int]:
        """A short prompt, and a token that follows it."""
        return list(range(1, 1 + min(5, self._cache.context)))

    def _own_logits(self, model: PreTrainedModel) -> Tensor:
        logits: Tensor = model(torch.tensor([self._trial], device=self._device), use_cache=False).logits[0, -2:]
        return logits

    def _verify(self, name: str, expected: Tensor) -> None:
        got = self._logits_in_pieces(self._trial)
        difference = ((got - expected).abs().max() / expected.abs().max()).item()
        if self._is_quantized:
            if not difference <= QUANTIZED_TOLERANCE:
                raise UnsupportedModel(
                    f"With weights in eight bits {name} gives other logits (by {difference:.1%} of the largest). "
                    f"Serve it without ENGINE_QUANTIZE."
                )
        elif not difference <= TOLERANCE[expected.dtype]:
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


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

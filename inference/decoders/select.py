"""Chooses the decoder for a model, builds it, and checks that it gives the model's own logits.

There are five decoders, and a model gets the fastest that supports it. A Llama-type model is taken apart: its weights
go to one of our own, in operators of torch or, if compiling is asked for, in C++ on a CPU and in kernels of Triton on a
GPU. Any other runs the code that transformers has for it, with our attention and matrix products; compiled, torch
compiles its layers. If some of these keep states, it stays uncompiled. On a GPU, decode steps of other models become
CUDA graphs instead. Only the decoder in C++ computes from quantized matrices as they are.
"""

import importlib.util
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from inference.cache.kv_cache import KVCache
from inference.cpp.build import CannotBuild
from inference.decoders.cuda_graphs import Capture, GraphedDecoder, has_graphs
from inference.decoders.decoder import CompilableDecoder, Decoder
from inference.decoders.gpu.graphs import GraphedSteps, Steps
from inference.decoders.native.decoder import NativeDecoder, NotNative, build_for
from inference.decoders.native.trial import check_products
from inference.decoders.start_check.before_rounding import check_before_rounding
from inference.decoders.start_check.corner import check_corner, corner
from inference.decoders.start_check.finite import check_finite
from inference.decoders.start_check.rotations import check_rotations
from inference.decoders.start_check.trial import Finding, Trial
from inference.decoders.torch_decoder import TorchDecoder
from inference.messages import first_line
from inference.weights import llama
from inference.weights.llama import Llama
from inference.weights.quiet import quiet
from inference.weights.take_apart import check_llama, take_apart
from interface.errors import UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("engine")


def select_decoder(
    model: "PreTrainedModel | Llama", cache: KVCache, is_compiled: bool = False, quantize: str | None = None
) -> Decoder:
    """Return the fastest decoder for a model on a cache; see `examine`."""
    return examine(model, cache, is_compiled, quantize)[0]


def examine(
    model: "PreTrainedModel | Llama",
    cache: KVCache,
    is_compiled: bool = False,
    quantize: str | None = None,
    is_bounded: bool = True,
) -> tuple[Decoder, Sequence[Finding]]:
    """Return the fastest decoder for a model on a cache, and how far its logits were from the model's own.

    The decoder takes the model over for good.

    Args:
        quantize: int8 or int4, to round the model's matrices to that many bits; only with `is_compiled`.
        is_bounded: limit the time of the comparison, as a start does.

    Raises:
        UnsupportedModel: no decoder runs the model, or its logits are not the model's own. The message says why.
    """
    if isinstance(model, Llama):  # of a GGUF file: there is no model alone to compare with
        return _checked_without_a_model(model, cache, is_compiled, quantize), ()
    check_rotations(model, cache.context)
    device = model.device
    varies = _not_llama(model, cache, is_compiled=False) is not None  # a window, for one, depends on the length
    with quiet():  # transformers would recommend packages for GPUs
        trial = Trial(model, cache, varies, is_bounded)
        decoder = _compared(model, cache, is_compiled, quantize, trial)
        if not quantize:  # what depends on length does not depend on how weights are rounded
            trial.verify_lengths(decoder)
    if is_compiled and has_graphs(device) and cache.storage.appends:
        decoder = _with_graphs(decoder, cache, device, trial)
    elif is_compiled and isinstance(decoder, CompilableDecoder):
        _compile(decoder, trial)
    return decoder, trial.findings


def _checked_without_a_model(model: Llama, cache: KVCache, is_compiled: bool, quantize: str | None) -> Decoder:
    """Build a decoder and, if it is the one in C++, compare it with torch on a corner of the weights.

    Raises:
        UnsupportedModel: it computes something else there, or logits that are not finite.
    """
    small = corner(model)
    decoder = _for_llama(model, cache, is_compiled, quantize)
    if isinstance(decoder, NativeDecoder):
        check_corner(decoder.library, _quantized(small, quantize) if quantize else small)
    check_finite(decoder, model, cache)
    return decoder


def _compared(
    model: "PreTrainedModel", cache: KVCache, is_compiled: bool, quantize: str | None, trial: Trial
) -> Decoder:
    """Build a decoder and compare it with the model alone.

    Raises:
        UnsupportedModel: its logits are others, or the model's own code fails on this engine's cache.
    """
    try:
        if quantize and _not_llama(model, cache, is_compiled) is None:
            check_before_rounding(model, cache.context)
        decoder = _build(model, cache, is_compiled, quantize)
        if quantize:
            trial.verify_quantized(decoder, quantize)
        else:
            trial.verify(decoder)
    except (UnsupportedModel, MemoryError, torch.OutOfMemoryError):
        raise
    except NotImplementedError as error:
        raise UnsupportedModel(f"{type(model).__name__} cannot run on this engine's cache: {error}") from error
    except Exception as error:  # there is no end of ways in which a model's code may not fit
        raise UnsupportedModel(
            f"{type(model).__name__} cannot run on this engine's cache: its own code fails there "
            f"({first_line(error)}). Expected a decoder that keeps only its layers' keys and values, or states."
        ) from error
    return decoder


def _not_llama(model: "PreTrainedModel", cache: KVCache, is_compiled: bool) -> llama.NotLlama | None:
    """Why a model is not of the Llama type, as far as one of our decoders computes it; None if it is."""
    try:
        check_llama(model, cache.context, may_vary=is_compiled and model.device.type == "cpu")
    except llama.NotLlama as reason:
        return reason
    return None


def _build(model: "PreTrainedModel", cache: KVCache, is_compiled: bool, quantize: str | None) -> Decoder:
    if reason := _not_llama(model, cache, is_compiled):
        _refuse_quantizing(quantize, reason)
        if is_compiled:
            log.info("No decoder in C++ for this model: %s", reason)
        # Not at the top: their libraries take a second to import, and no model of the Llama type needs them.
        from inference.cache.states import has_states
        from inference.decoders.stateful_decoder import StatefulDecoder
        from inference.decoders.transformers_decoder import TransformersDecoder

        return StatefulDecoder(model, cache) if has_states(model.config) else TransformersDecoder(model)
    return _for_llama(take_apart(model, cache.row_length), cache, is_compiled, quantize)


def _for_llama(model: Llama, cache: KVCache, is_compiled: bool, quantize: str | None) -> Decoder:
    """The decoder in C++, or in Triton, if compiling is asked for and works, else that of torch's operators."""
    if is_compiled and has_kernels(model.device):
        _refuse_quantizing(quantize, NotNative(f"the weights are on {model.device}; expected them on the CPU"))
        try:
            return kernel_decoder(model, cache)
        except Exception as error:  # no Triton, no compiler for it, a GPU that it does not know
            log.warning("The model runs without kernels of its own: %s", first_line(error))
    elif is_compiled:
        try:
            return _native(model, cache, quantize)
        except (NotNative, CannotBuild) as reason:
            _refuse_quantizing(quantize, reason)
            if isinstance(reason, CannotBuild):
                log.warning("The model runs uncompiled: %s", reason)
            else:
                log.info("No decoder in C++ for this model: %s", reason)
    return TorchDecoder(model)


def _native(model: Llama, cache: KVCache, quantize: str | None) -> NativeDecoder:
    """The decoder in C++; the model is left as it is if there can be none.

    Raises:
        NotNative, CannotBuild: see `build_for`.
        UnsupportedModel: what the compiler made of a quantized product is wrong.
    """
    began = time.perf_counter()
    library = build_for(model, model.formats | (llama.formats_of(quantize) if quantize else set()))
    log.info("Compiled or loaded the decoder in %.1f s", time.perf_counter() - began)
    if quantize:
        model = _quantized(model, quantize)
    for matrix in model.of_each_format():
        check_products(library, model.dtype, matrix)
    return NativeDecoder(library, model, cache)


def _quantized(model: Llama, kind: str) -> Llama:
    try:
        return llama.quantized(model, kind)
    except ValueError as error:
        raise UnsupportedModel(f"No weights in {kind}: {error}. Serve it without ENGINE_QUANTIZE.") from error


def _refuse_quantizing(quantize: str | None, reason: Exception) -> None:
    if quantize:
        raise UnsupportedModel(f"{quantize} needs the decoder in C++, and there is none here: {reason}") from reason


def has_kernels(device: torch.device) -> bool:
    """Whether this is a GPU, and torch came with Triton."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


def kernel_decoder(model: Llama, cache: KVCache) -> Decoder:
    """The decoder whose kernels are of Triton.

    Raises:
        Exception: there is no Triton, or it does not work here; the model is left as it is.
    """
    from inference.decoders.gpu import decoder, kernels

    kernels.gate(torch.zeros(1, 2, device=model.device))
    return decoder.KernelDecoder(model, cache)


def graphed(decoder: Decoder, cache: KVCache, device: torch.device) -> Decoder:
    """The decoder with its decode steps as CUDA graphs."""
    if isinstance(decoder, Steps):
        return GraphedSteps(decoder, cache.slots, device, Capture())
    return GraphedDecoder(decoder, cache, device, Capture())


def _with_graphs(decoder: Decoder, cache: KVCache, device: torch.device, trial: Trial) -> Decoder:
    try:
        log.info("Making CUDA graphs of the decode steps …")
        with_graphs = graphed(decoder, cache, device)
        trial.verify(with_graphs)
    except Exception as error:  # an operator that cannot be captured
        log.warning("The model runs without CUDA graphs: %s", first_line(error))
        return decoder
    return with_graphs


def _compile(decoder: CompilableDecoder, trial: Trial) -> None:
    """Compile a decoder if that works: whatever goes wrong, the model runs uncompiled."""
    try:
        decoder.compile(trial.verify)
    except Exception as error:  # no compiler, a broken one, an operator that it does not know
        log.warning("The model runs uncompiled: %s", first_line(error))

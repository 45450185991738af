"""Hands a model's weights to decoder.cpp, and calls it once per step.

Invariant: everything that a pointer in a structure points to is held by the decoder's `Packer` or its `Pages`, or, for
a step's own tensors, by the call.
"""

import ctypes
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.affinity import processors_for
from inference.cache.batch import Batch
from inference.cache.kv_cache import KVCache
from inference.cache.pages import KEYS, VALUES, Layers, Pages
from inference.cpp.build import build
from inference.decoders.native import structures
from inference.decoders.native.packing import BLOCK, PANEL, Packer, padded
from inference.decoders.native.scratch import scratch
from inference.decoders.native.sources import STRIP, decoder_units, stays_quantized
from inference.weights.formats import FORMATS
from inference.weights.llama import Experts, Layer, Llama
from inference.weights.memory_ahead import AHEAD
from inference.weights.quantized import QuantizedMatrix


class NotNative(Exception):
    """The model is not one that decoder.cpp can compute; the message says why."""


def build_for(llama: Llama, formats: Collection[str]) -> ctypes.CDLL:
    """Compile decoder.cpp for a model of these sizes and this precision whose matrices are in these formats.

    Raises:
        NotNative: decoder.cpp does not compute them.
        CannotBuild: there is no compiler that can.
    """
    if llama.device.type != "cpu" or llama.dtype not in (torch.float32, torch.bfloat16):
        raise NotNative(f"{llama.dtype} on {llama.device}: it computes float32 and bfloat16, on a CPU")
    sizes = llama.sizes
    if sizes.head_dim % STRIP:
        raise NotNative(f"heads of {sizes.head_dim} numbers; expected a multiple of {STRIP}")
    _check_experts(llama)
    numbers = [FORMATS[name].number for name in formats]
    has_plain = not all(
        isinstance(matrix, QuantizedMatrix) and stays_quantized(matrix.format, len(matrix.blocks))
        for matrix in llama.matrices()
    )
    is_bfloat16, group = llama.dtype == torch.bfloat16, sizes.heads // sizes.kv_heads
    has_experts = sizes.experts is not None
    library = build(*decoder_units(is_bfloat16, numbers, has_plain, sizes.head_dim, group, has_experts))
    library.decoder_step.restype = None
    library.attends_in_pairs.restype = library.depends_on_rows.restype = ctypes.c_bool
    if formats:
        library.strip_size.restype = ctypes.c_int64
    return library


def _check_experts(llama: Llama) -> None:
    """Raises NotNative if the matrices of the experts cannot lie one below the other."""
    sizes = {size for layer in llama.layers if layer.router is not None for size in layer.expert_shape}
    if odd := [size for size in sizes if size % PANEL]:
        raise NotNative(f"experts with {odd[0]} inputs; expected a multiple of {PANEL}")


class NativeDecoder:
    """A Llama-type model on a CPU, in float32 or bfloat16, with matrices that may be quantized.

    `library` must have been built for the same.
    """

    name = "C++"

    def __init__(self, library: ctypes.CDLL, llama: Llama, cache: KVCache) -> None:
        sizes = llama.sizes
        alike = Layers(len(llama.layers), sizes.kv_heads, sizes.head_dim, llama.dtype)
        self._pages = cache.storage = Pages(cache.slots, cache.context, alike, are_paired=library.attends_in_pairs())
        self.has_same_bits = not library.depends_on_rows()
        self._dtype = llama.dtype
        self._is_quantized = bool(llama.formats)
        self.library = library
        self._packer = packer = Packer(library, llama.dtype, AHEAD)
        layers = (structures.Layer * len(llama.layers))(
            *(self._layer(number, llama.layers.pop(0), cache.row_length) for number in range(len(llama.layers)))
        )
        vocabulary, hidden = llama.embedding.shape
        experts = sizes.experts or Experts(count=0, per_token=0, weights_add_up=False)
        self._model = structures.Model(
            layers=layers,
            head=packer.matrix([llama.head]),
            **packer.embedding(llama.embedding),
            final_norm=packer.hold_floats(llama.final_norm),
            layer_count=len(layers),
            hidden=hidden,
            vocabulary=vocabulary,
            kv_heads=sizes.kv_heads,
            context=cache.row_length,
            pages=self._pages.table.address,
            slot_pages=self._pages.table.per_slot,
            page_stride=self._pages.numbers.stride(0),
            epsilon=sizes.epsilon,
            scale=sizes.scale,
            embedding_scale=sizes.embedding_scale,
            score_cap=sizes.score_cap or 0,
            logit_cap=sizes.logit_cap or 0,
            is_gelu=sizes.is_gelu,
            gate_limit=sizes.limits.limit if sizes.limits else 0,
            gate_factor=sizes.limits.factor if sizes.limits else 0,
            experts=experts.count,
            padded_experts=padded(experts.count, STRIP),
            experts_per_token=experts.per_token,
            weights_add_up=experts.weights_add_up,
        )
        AHEAD.give_back()
        packer.release_unused()
        self._threads = torch.get_num_threads()
        processors = processors_for(self._threads)
        self._processors = None if processors is None else packer.hold(torch.tensor(processors))
        self._scratch: dict[str, Tensor] = {}
        self._scratch_rows = 0

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits [sampled, vocabulary], in float32, and write the new keys and values to the cache."""
        tokens, sampled = batch.token_ids.numel(), batch.sampled.numel()
        self._make_scratch(tokens)
        logits = torch.empty(sampled, self._model.vocabulary)
        step = structures.Step(
            token_ids=batch.token_ids.data_ptr(),
            positions=batch.positions.data_ptr(),
            slots=batch.slots.data_ptr(),
            sampled=batch.sampled.data_ptr(),
            token_count=tokens,
            sampled_count=sampled,
            threads=self._threads,
            processors=self._processors,
            widened_size=self._scratch["widened"].shape[1],
            logits=logits.data_ptr(),
            **{name: tensor.data_ptr() for name, tensor in self._scratch.items()},
        )
        self.library.decoder_step(ctypes.byref(self._model), ctypes.byref(step))
        return logits

    def _make_scratch(self, tokens: int) -> None:
        """Make scratch tensors for a step; they grow with the largest step so far and are then reused."""
        if tokens <= self._scratch_rows:
            return
        rows = self._scratch_rows = padded(tokens, BLOCK)
        self._scratch = scratch(self._model, rows, self._threads, self._dtype, self._is_quantized)

    def _layer(self, number: int, layer: Layer, context: int) -> structures.Layer:
        packer = self._packer

        def floats(weights: Tensor | None) -> int | None:
            return None if weights is None else packer.hold_floats(weights)

        return structures.Layer(
            qkv=packer.matrix([layer.query, layer.key, layer.value], biases=[layer.qkv_bias]),
            output=packer.matrix([layer.output], biases=[layer.output_bias]),
            gate_up=packer.matrix([layer.gate, layer.up], is_interleaved=True, biases=[layer.gate_bias, layer.up_bias]),
            down=packer.matrix([layer.down], biases=[layer.down_bias]),
            input_norm=floats(layer.input_norm),
            mlp_norm=floats(layer.mlp_norm),
            query_norm=floats(layer.query_norm),
            key_norm=floats(layer.key_norm),
            attended_norm=floats(layer.attended_norm),
            activated_norm=floats(layer.activated_norm),
            cosines=packer.hold(layer.rotation.cosines),
            sines=packer.hold(layer.rotation.sines),
            keys=self._pages.address(number, KEYS),
            values=self._pages.address(number, VALUES),
            window=min(layer.window or context, context),
            sinks=floats(layer.sinks),
            router=floats(None if layer.router is None else _filled(layer.router)),
            router_bias=floats(layer.router_bias),
        )


def _filled(router: Tensor) -> Tensor:
    """A router [experts, hidden] with experts of zeros behind, as several are scored at once."""
    return F.pad(router, (0, 0, 0, padded(len(router), STRIP) - len(router)))

"""Tries the decoder in C++ on a corner of a model's weights, against operators of torch in float32.

A GGUF file whose blocks are computed as they are has no model of transformers to compare logits with. But the first
heads, inputs and outputs of the first layers are a small model of the same kind, which runs through the code that was
compiled for the whole one. That takes a hundredth of a second. It cannot show whether the file's weights were
interpreted correctly; `python -m inference.check` compares them with transformers.
"""

import ctypes
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.cache.kv_cache import KVCache
from inference.decoders.decoder import Decoder
from inference.decoders.native.decoder import NativeDecoder
from inference.decoders.start_check.in_pieces import in_pieces
from inference.decoders.start_check.tolerance import Tolerance, largest, typical_difference
from inference.decoders.torch_decoder import TorchDecoder
from inference.weights.formats import FORMATS
from inference.weights.llama import Experts, Layer, Llama, Rotation, Sizes
from inference.weights.quantized import Matrix, QuantizedMatrix, as_tensor, rows
from interface.errors import UnsupportedModel

LAYERS = 2
EXPERTS = 3
INPUTS = 256
"""Inputs of a layer, and of its MLP: a multiple of every format's block."""
VOCABULARY = 512
SCORE = 2.0
"""The largest score in the corner. With the model's own scale, which is for all inputs, the scores of a few would be
near 0, so that no wrong angle showed, or so large that a rounded key chose another token."""
WINDOW = 9
"""A window in the corner is at most this long, so that the text goes beyond it."""
TOKENS, NEIGHBOUR = 40, 5
"""Tokens of the text, which crosses blocks of the cache, and of its neighbour."""


def check_corner(library: ctypes.CDLL, small: Llama) -> None:
    """Check that the decoder that was compiled for a model computes its corner correctly.

    Raises:
        UnsupportedModel: it does not; a compiler has done that.
    """
    found = difference(library, small)
    if not Tolerance.of(small.dtype).admits(found):
        how_far = "some are not finite" if math.isnan(found) else f"by {found:.1%}"
        raise UnsupportedModel(
            f"Compiled here, the decoder gives other logits than operators of torch ({how_far}). Another compiler may "
            f"help: CXX names one; without ENGINE_COMPILE=1 none is needed."
        )


def difference(library: ctypes.CDLL, small: Llama) -> float:
    """How far the decoder's logits are from those of operators of torch in float32, relative to these.

    It is the root mean square over all of a text's logits. The largest of 3,600 rounding errors varies more, up to near
    what is allowed, and a fault shows in all of the logits.
    """
    exact = TorchDecoder(dataclasses.replace(small, dtype=torch.float32, layers=list(small.layers)))
    positions, vocabulary = len(small.layers[0].rotation.cosines), small.embedding.shape[0]
    texts = [
        [number * 7 % vocabulary for number in range(1, min(tokens, positions) + 1)] for tokens in (TOKENS, NEIGHBOUR)
    ]
    expected = _logits(exact, KVCache(len(texts), positions), texts)
    cache = KVCache(len(texts), positions)
    found = _logits(NativeDecoder(library, small, cache), cache, texts)
    # Logits of nothing but zeros, or not finite, are the weights' fault: nothing can be compared with them.
    pairs = [
        (ours, theirs) for ours, theirs in zip(found, expected, strict=True) if theirs.any() and theirs.isfinite().all()
    ]
    return largest([typical_difference(ours, theirs) for ours, theirs in pairs])


def _logits(decoder: Decoder, cache: KVCache, texts: list[list[int]]) -> list[Tensor]:
    return in_pieces(decoder, cache, torch.device("cpu"), texts)


def corner(llama: Llama) -> Llama:
    """The first layers of a model, with the first of their heads, inputs and outputs."""
    sizes = llama.sizes
    group = sizes.heads // sizes.kv_heads
    # The inputs of the output matrix have to be whole blocks.
    enough = (count for count in range(1, sizes.kv_heads) if count * group * sizes.head_dim % INPUTS == 0)
    kv_heads = next(enough, sizes.kv_heads)
    small = dataclasses.replace(sizes, heads=kv_heads * group, kv_heads=kv_heads, experts=_all_of_few(sizes.experts))
    embedding = _cut(llama.embedding, VOCABULARY, INPUTS)
    layers = [_cut_layer(layer, sizes, small) for layer in _of_each_kind(llama.layers)]
    largest = max(_largest_score(layer, small, as_tensor(embedding, torch.float32)) for layer in layers)
    return dataclasses.replace(
        llama,
        sizes=dataclasses.replace(small, scale=SCORE / largest),
        embedding=embedding,
        layers=layers,
        final_norm=llama.final_norm[:INPUTS],
        head=_cut(llama.head, VOCABULARY, INPUTS),
    )


def _of_each_kind(layers: Sequence[Layer]) -> Sequence[Layer]:
    """The first layers, and the first of each other kind."""
    first = {(layer.rotation, layer.window): layer for layer in reversed(layers[LAYERS:])}
    for layer in layers[:LAYERS]:
        first.pop((layer.rotation, layer.window), None)
    return [*layers[:LAYERS], *first.values()]


def _largest_score(layer: Layer, sizes: Sizes, hidden: Tensor) -> float:
    """About how large products of queries and keys of hidden states [tokens, hidden] are, before they are scaled."""
    normed = F.rms_norm(hidden, hidden.shape[1:], layer.input_norm, sizes.epsilon)
    products = [normed @ as_tensor(matrix, torch.float32).T for matrix in (layer.query, layer.key)]
    if layer.qkv_bias is not None:
        products = [product + bias for product, bias in zip(products, _by_part(layer.qkv_bias, sizes)[:2], strict=True)]
    lengths: list[float] = []
    for product, norm in zip(products, (layer.query_norm, layer.key_norm), strict=True):
        heads = product.view(-1, sizes.head_dim)
        heads = heads if norm is None else F.rms_norm(heads, norm.shape, norm, sizes.epsilon)
        lengths.append(heads.norm(dim=-1).mean().item())
    return max(lengths[0] * lengths[1] / math.sqrt(sizes.head_dim), 1e-30)


def _cut_layer(layer: Layer, sizes: Sizes, small: Sizes) -> Layer:
    queries, keys = small.heads * small.head_dim, small.kv_heads * small.head_dim
    return dataclasses.replace(
        layer,
        query=_cut(layer.query, queries, INPUTS),
        key=_cut(layer.key, keys, INPUTS),
        value=_cut(layer.value, keys, INPUTS),
        qkv_bias=None if layer.qkv_bias is None else _cut_biases(layer.qkv_bias, sizes, small),
        output=_cut(layer.output, INPUTS, queries),
        output_bias=_first(INPUTS, layer.output_bias),
        gate=_cut_experts(layer, layer.gate, sizes, small),
        up=_cut_experts(layer, layer.up, sizes, small),
        down=_cut_experts(layer, layer.down, sizes, small),
        gate_bias=_cut_bias(layer, layer.gate_bias, sizes, small),
        up_bias=_cut_bias(layer, layer.up_bias, sizes, small),
        down_bias=_cut_bias(layer, layer.down_bias, sizes, small),
        input_norm=layer.input_norm[:INPUTS],
        mlp_norm=layer.mlp_norm[:INPUTS],
        attended_norm=_first(INPUTS, layer.attended_norm),
        activated_norm=_first(INPUTS, layer.activated_norm),
        rotation=Rotation(layer.rotation.cosines[:TOKENS], layer.rotation.sines[:TOKENS]),
        window=None if layer.window is None else min(layer.window, WINDOW),
        sinks=_first(small.heads, layer.sinks),
        router=None if layer.router is None else layer.router[:EXPERTS, :INPUTS],
        router_bias=_first(EXPERTS, layer.router_bias),
    )


def _first(count: int, vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector[:count]


def _all_of_few(experts: Experts | None) -> Experts | None:
    """A few experts, each token's all of them: which ones are best may depend on the last bits of their scores."""
    if experts is None:
        return None
    few = min(experts.count, EXPERTS)
    return dataclasses.replace(experts, count=few, per_token=few)


def _cut_experts(layer: Layer, matrix: Matrix, sizes: Sizes, small: Sizes) -> Matrix:
    """The first outputs and inputs of the MLP's matrix, or of those of the first experts."""
    if layer.router is None or sizes.experts is None or small.experts is None:
        return _cut(matrix, INPUTS, INPUTS)
    outputs = matrix.shape[0] // sizes.experts.count
    kept = [torch.arange(min(outputs, INPUTS)) + number * outputs for number in range(small.experts.count)]
    return _cut(rows(matrix, torch.cat(kept)), sum(map(len, kept)), INPUTS)


def _cut_bias(layer: Layer, bias: Tensor | None, sizes: Sizes, small: Sizes) -> Tensor | None:
    return None if bias is None else as_tensor(_cut_experts(layer, bias[:, None], sizes, small), bias.dtype)[:, 0]


def _cut_biases(biases: Tensor, sizes: Sizes, small: Sizes) -> Tensor:
    kept = (small.heads, small.kv_heads, small.kv_heads)
    parts = zip(_by_part(biases, sizes), kept, strict=True)
    return torch.cat([part[: count * sizes.head_dim] for part, count in parts])


def _by_part(biases: Tensor, sizes: Sizes) -> Sequence[Tensor]:
    """The biases of queries, of keys and of values."""
    return torch.split(biases, [count * sizes.head_dim for count in (sizes.heads, sizes.kv_heads, sizes.kv_heads)])


def _cut(matrix: Matrix, outputs: int, inputs: int) -> Matrix:
    """The first outputs and inputs of a matrix, as many as it has."""
    if not isinstance(matrix, QuantizedMatrix):
        return matrix[:outputs, :inputs]
    kind, inputs = FORMATS[matrix.format], min(inputs, matrix.inputs)
    row_bytes = -(-inputs // kind.inputs) * kind.bytes
    return QuantizedMatrix(matrix.format, np.ascontiguousarray(matrix.blocks[:outputs, :row_bytes]), inputs)

"""Computes a batch for a Llama-type model on a GPU, in few kernels (see `kernels`)."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.cache.batch import Batch
from inference.cache.gpu_pages import GpuPages
from inference.cache.kv_cache import KVCache
from inference.cache.pages import Layers
from inference.decoders.gpu import kernels
from inference.transfer import to_device
from inference.weights.llama import Layer, Llama, Sizes
from inference.weights.quantized import Matrix, as_tensor


class KernelDecoder:
    """A Llama-type model that does not vary, and the cache of its keys and values, which nothing else writes."""

    name = "kernels of Triton"
    has_same_bits = False

    def __init__(self, llama: Llama, cache: KVCache) -> None:
        self._sizes = sizes = llama.sizes
        rotation, half = llama.layers[0].rotation, sizes.head_dim // 2  # all layers have the same
        cosines = rotation.cosines[:, :half].contiguous()  # [positions, head_dim / 2]: both halves have the same
        sines = rotation.sines[:, :half].contiguous()
        self._layers = [
            _Layer(llama.layers.pop(0), sizes, llama.dtype, cosines, sines) for _ in range(len(llama.layers))
        ]
        alike = Layers(len(self._layers), sizes.kv_heads, sizes.head_dim, llama.dtype)
        pages = GpuPages(cache.slots, cache.context, alike, llama.device)
        self._caches = [pages.layer(number) for number in range(len(self._layers))]
        cache.storage = pages
        self._final_norm = llama.final_norm.to(llama.dtype)
        self._head = as_tensor(llama.head, llama.dtype)
        self._embedding = as_tensor(llama.embedding, llama.dtype)

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits [sampled, vocabulary], and write the new keys and values to the cache."""
        token_ids, positions = batch.token_ids[0], batch.positions[0]
        blocks = self._blocks(batch) if batch.segments else None
        return self._logits(self._hidden(token_ids, positions, batch.slots, blocks)[batch.sampled])

    def step(self, token_ids: Tensor, positions: Tensor, slots: Tensor) -> Tensor:
        """The logits [rows, vocabulary] of one token for each row; a row whose slot is -1 is unused."""
        return self._logits(self._hidden(token_ids, positions, slots, None))

    def _hidden(self, token_ids: Tensor, positions: Tensor, slots: Tensor, blocks: Tensor | None) -> Tensor:
        hidden = kernels.embed(token_ids, self._embedding)  # [tokens, hidden]
        for layer, cached in zip(self._layers, self._caches, strict=True):
            layer.forward(hidden, cached, positions, slots, blocks)
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        if len(hidden) == 1:
            return kernels.multiply(hidden, self._head, norm=self._final_norm, epsilon=self._sizes.epsilon)
        return F.linear(kernels.rms_norm(hidden, self._final_norm, self._sizes.epsilon), self._head)

    def _blocks(self, batch: Batch) -> Tensor:
        """What `attend_chunks` takes at once, [blocks, 4]: tokens of one slot each."""
        sizes = self._sizes
        size = kernels.tokens_per_block(sizes.heads, sizes.kv_heads, sizes.head_dim, self._head.dtype)
        return to_device(torch.tensor(list(_cut(batch, size)), dtype=torch.int64), batch.slots.device)


def _cut(batch: Batch, size: int) -> Iterator[tuple[int, int, int, int]]:
    """Blocks of at most `size` tokens: the first one's row, their number, their slot, the first one's position."""
    for run in batch.runs:
        for row in range(run.first, run.last):
            yield row, 1, run.slot + row - run.first, batch.starts[row]
    for segment in batch.segments:
        for first in range(0, segment.last - segment.first, size):
            count = min(size, segment.last - segment.first - first)
            yield segment.first + first, count, segment.slot, segment.start + first


class _Layer:
    def __init__(self, layer: Layer, sizes: Sizes, dtype: torch.dtype, cosines: Tensor, sines: Tensor) -> None:
        self._epsilon = sizes.epsilon
        self._input_norm, self._mlp_norm = layer.input_norm.to(dtype), layer.mlp_norm.to(dtype)
        query_norm, key_norm = _in(dtype, layer.query_norm), _in(dtype, layer.key_norm)
        self._heads = kernels.Heads(sizes.heads, sizes.scale, cosines, sines, query_norm, key_norm, sizes.epsilon)
        self._qkv = _stacked(dtype, layer.query, layer.key, layer.value)
        self._bias = _in(dtype, layer.qkv_bias)
        self._output = _stacked(dtype, layer.output)
        self._gate_up = _stacked(dtype, layer.gate, layer.up)
        self._down = _stacked(dtype, layer.down)

    def forward(
        self,
        hidden: Tensor,
        cached: kernels.Cached,
        positions: Tensor,
        slots: Tensor,
        blocks: Tensor | None,
    ) -> None:
        """Compute the layer in place of `hidden` [tokens, hidden]."""
        epsilon = self._epsilon
        if len(hidden) == 1:
            qkv = kernels.multiply(hidden, self._qkv, norm=self._input_norm, epsilon=epsilon, bias=self._bias)
            attended = self._attend(qkv, cached, positions, slots, blocks)
            kernels.multiply(attended, self._output, add_to=hidden)
            gated = kernels.multiply(hidden, self._gate_up, norm=self._mlp_norm, epsilon=epsilon, is_gated=True)
            kernels.multiply(gated, self._down, add_to=hidden)
            return
        qkv = F.linear(kernels.rms_norm(hidden, self._input_norm, epsilon), self._qkv, self._bias)
        hidden.addmm_(self._attend(qkv, cached, positions, slots, blocks), self._output.t())
        gate_up = F.linear(kernels.rms_norm(hidden, self._mlp_norm, epsilon), self._gate_up)
        hidden.addmm_(kernels.gate(gate_up), self._down.t())

    def _attend(
        self, qkv: Tensor, cached: kernels.Cached, positions: Tensor, slots: Tensor, blocks: Tensor | None
    ) -> Tensor:
        if blocks is None:
            return kernels.attend_rows(qkv, cached, positions, slots, self._heads)
        return kernels.attend_chunks(qkv, cached, positions, slots, blocks, self._heads)


def _in(dtype: torch.dtype, vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.to(dtype)


def _stacked(dtype: torch.dtype, *matrices: Matrix) -> Tensor:
    """Matrices of the same inputs, stacked."""
    first, *others = [as_tensor(matrix, dtype) for matrix in matrices]
    return torch.cat([first, *others]) if others else first.contiguous()

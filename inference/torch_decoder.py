"""Computes a batch for a Llama-type model in few operators of torch: what the engine runs by default.

For one token, or sixteen, an operator costs more for being called than for what it computes. The model's own forward
in transformers calls 42 in a layer, this one 33 (views not counted). It is also the plainest account of what a step
is, beside `native/decoder.cpp`, which does the same in one call.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.attention import attend_slots
from inference.batch import Batch
from inference.linear import Linear
from inference.llama import Layer, Llama, Sizes


class TorchDecoder:
    """A Llama-type model on any device. Its weights are packed where that is faster."""

    def __init__(self, llama: Llama) -> None:
        sizes, half = llama.sizes, llama.sizes.head_dim // 2
        signs = torch.cat([-torch.ones(half), torch.ones(half)]).to(llama.sines.device)
        self._cosines = llama.cosines.to(llama.dtype)[:, None]  # [positions, 1, head_dim]
        self._sines = (llama.sines * signs).to(llama.dtype)[:, None]
        self._embedding = llama.embedding
        self._layers = [_Layer(number, llama.layers.pop(0), sizes) for number in range(len(llama.layers))]
        self._final_norm = llama.final_norm
        self._head = Linear(llama.head, None)
        self._epsilon = sizes.epsilon

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits [sampled, vocabulary], and write the new keys and values to the cache."""
        positions = batch.positions[0]
        cosines, sines = self._cosines[positions], self._sines[positions]  # [tokens, 1, head_dim]
        hidden = F.embedding(batch.token_ids[0], self._embedding)  # [tokens, hidden]
        for layer in self._layers:
            hidden = layer.forward(hidden, batch, cosines, sines)
        return self._head(_rms_norm(hidden[batch.sampled], self._final_norm, self._epsilon))


class _Layer:
    def __init__(self, number: int, layer: Layer, sizes: Sizes) -> None:
        self._number = number
        self._sizes = sizes
        self._input_norm, self._mlp_norm = layer.input_norm, layer.mlp_norm
        self._query_norm, self._key_norm = layer.query_norm, layer.key_norm
        self._qkv = Linear(layer.qkv, layer.qkv_bias)
        self._output = Linear(layer.output, None)
        self._gate_up = Linear(torch.cat([layer.gate, layer.up]), None)
        self._down = Linear(layer.down, None)

    def forward(self, hidden: Tensor, batch: Batch, cosines: Tensor, sines: Tensor) -> Tensor:
        normed = _rms_norm(hidden, self._input_norm, self._sizes.epsilon)
        hidden = self._output(self._attend(normed, batch, cosines, sines), plus=hidden)
        normed = _rms_norm(hidden, self._mlp_norm, self._sizes.epsilon)
        gate, up = self._gate_up(normed).chunk(2, dim=-1)
        return self._down(F.silu(gate) * up, plus=hidden)

    def _attend(self, normed: Tensor, batch: Batch, cosines: Tensor, sines: Tensor) -> Tensor:
        sizes = self._sizes
        parts = self._qkv(normed).view(len(normed), -1, sizes.head_dim)  # [tokens, heads + 2 kv_heads, head_dim]
        turned, value = parts[:, : -sizes.kv_heads], parts[:, -sizes.kv_heads :]
        if self._query_norm is not None and self._key_norm is not None:
            query = _rms_norm(turned[:, : sizes.heads], self._query_norm, sizes.epsilon)
            key = _rms_norm(turned[:, sizes.heads :], self._key_norm, sizes.epsilon)
            turned = torch.cat([query, key], dim=1)
        # A head's two halves change places; the sines of the first half have the other sign.
        turned = turned * cosines + turned.roll(sizes.head_dim // 2, dims=-1) * sines
        attended = attend_slots(
            batch,
            self._number,
            turned[:, : sizes.heads].transpose(0, 1)[None],  # [1, heads, tokens, head_dim]
            turned[:, sizes.heads :].transpose(0, 1)[None],
            value.transpose(0, 1)[None],
            sizes.scale,
        )
        return attended.reshape(len(normed), -1)


def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """As the models have it, in float32; on a CPU, `F.rms_norm` takes twice as long for a few rows."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scaled = x * (norm.square() / x.shape[-1] + epsilon).rsqrt()
    return scaled.to(x.dtype) * weight

"""Computes a batch for a Llama-type model with few operators of torch: the engine's default decoder.

For one token, or sixteen, calling an operator takes longer than what it computes. The model's own forward in
transformers calls 42 per layer, this one 18 (without views). It is also the shortest description of what a step
computes; `native/decoder.cpp` does the same in one call.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.cache.attention import Scoring, attend_slots
from inference.cache.batch import Batch
from inference.decoders.linear import Linear
from inference.weights.llama import Layer, Llama, Rotation, Sizes
from inference.weights.quantized import Matrix, as_tensor

ROW_STEP = 16
"""If matrices are packed, more tokens than this are filled up to a multiple of it: oneDNN makes a kernel for each new
number of rows, and that takes longer than the product."""

NEAR = 1 / 64
"""A logit is near the largest one if they differ by less than this part of it: twice bfloat16's rounding error."""
MOST_NEAR = 64
"""If more tokens than this are near a row's largest logit, computing them exactly would decide nothing."""


class TorchDecoder:
    """A Llama-type model on any device. Its weights are packed where that is faster."""

    name = "operators of torch"
    has_same_bits = False

    def __init__(self, llama: Llama) -> None:
        sizes = llama.sizes
        self._rotations = {layer.rotation: _Rotation(layer.rotation, llama.dtype) for layer in llama.layers}
        self._windows = {layer.window for layer in llama.layers}
        self._embedding_scale, self._logit_cap = sizes.embedding_scale, sizes.logit_cap
        self._layers = [_Layer(number, llama.layers.pop(0), sizes, llama.dtype) for number in range(len(llama.layers))]
        self._final_norm = _RMSNorm(llama.final_norm.to(llama.dtype), sizes.epsilon)
        self._head = _linear(llama.dtype, llama.head)
        # Where every matrix is packed, nothing else is left of the file that it was read from, and that can go.
        embedding = as_tensor(llama.embedding, llama.dtype)
        self._embedding = embedding.clone() if self._head.is_packed else embedding
        is_tied = _share_memory(llama.head, llama.embedding)
        self._has_exact_logits = is_tied and self._embedding.device.type == "cpu" and llama.dtype != torch.float32

    def forward(self, batch: Batch) -> Tensor:
        """Return the logits [sampled, vocabulary], and write the new keys and values to the cache."""
        positions, token_ids = batch.positions[0], batch.token_ids[0]
        angles = {rotation: ours.at(positions) for rotation, ours in self._rotations.items()}
        visible = {window: batch.visibility(window) for window in self._windows}
        filling = -len(token_ids) % ROW_STEP if self._head.is_packed and len(token_ids) > ROW_STEP else 0
        hidden = F.embedding(F.pad(token_ids, (0, filling)), self._embedding)  # [rows, hidden]
        if self._embedding_scale != 1:
            hidden = hidden * self._embedding_scale
        for layer in self._layers:
            hidden = layer.forward(hidden, batch, *angles[layer.rotation], visible[layer.window])
        normed = self._final_norm(hidden[batch.sampled])
        logits = self._head(normed)
        if self._logit_cap:
            return torch.tanh(logits / self._logit_cap) * self._logit_cap
        return exact_near_largest(logits, normed, self._embedding) if self._has_exact_logits else logits


def exact_near_largest(logits: Tensor, normed: Tensor, rows: Tensor) -> Tensor:
    """Logits [sampled, vocabulary] in float32, those near the largest as products in float32.

    In bfloat16 logits around 20 lie an eighth apart, so that the most likely tokens often have the same one, and the
    lowest token id would win.

    Args:
        normed: [sampled, hidden], what the logits are products of.
        rows: [vocabulary, hidden], with these.
    """
    largest = logits.amax(-1, keepdim=True)
    is_near = logits >= largest - largest.abs() * NEAR
    is_near &= is_near.sum(-1, keepdim=True) <= MOST_NEAR
    sampled, tokens = torch.where(is_near)
    exact = logits.float()
    exact[sampled, tokens] = (normed[sampled].float() * rows[tokens].float()).sum(-1)
    return exact


def _share_memory(first: Matrix, second: Matrix) -> bool:
    """Whether two matrices are the same memory."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.data_ptr() == second.data_ptr()
    return first is second


class _Rotation:
    def __init__(self, rotation: Rotation, dtype: torch.dtype) -> None:
        half = rotation.sines.shape[1] // 2
        signs = torch.cat([-torch.ones(half), torch.ones(half)]).to(rotation.sines.device)
        self._cosines = rotation.cosines.to(dtype)[:, None]  # [positions, 1, head_dim]
        self._sines = (rotation.sines * signs).to(dtype)[:, None]

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """[tokens, 1, head_dim] each; the sines of the first half have the opposite sign."""
        return self._cosines[positions], self._sines[positions]


class _Layer:
    def __init__(self, number: int, layer: Layer, sizes: Sizes, dtype: torch.dtype) -> None:
        self.rotation = layer.rotation
        self.window = layer.window
        self._number = number
        self._sizes = sizes
        self._input_norm, self._mlp_norm = (
            _RMSNorm(w.to(dtype), sizes.epsilon) for w in (layer.input_norm, layer.mlp_norm)
        )
        self._query_norm, self._key_norm, self._attended_norm, self._activated_norm = (
            None if w is None else _RMSNorm(w.to(dtype), sizes.epsilon)
            for w in (layer.query_norm, layer.key_norm, layer.attended_norm, layer.activated_norm)
        )
        self._qkv = _linear(dtype, layer.query, layer.key, layer.value, bias=layer.qkv_bias)
        self._output = _linear(dtype, layer.output, bias=_in(dtype, layer.output_bias))
        self._sinks = layer.sinks
        self._experts = None if layer.router is None else _Experts(layer, sizes, dtype)
        if self._experts is None:
            biases = None if layer.gate_bias is None or layer.up_bias is None else [layer.gate_bias, layer.up_bias]
            joined = None if biases is None else torch.cat(biases)
            self._gate_up = _linear(dtype, layer.gate, layer.up, bias=_in(dtype, joined))
            self._down = _linear(dtype, layer.down, bias=_in(dtype, layer.down_bias))

    def forward(self, hidden: Tensor, batch: Batch, cosines: Tensor, sines: Tensor, visible: int) -> Tensor:
        attended = self._attend(self._input_norm(hidden), batch, cosines, sines, visible)
        hidden = _added(hidden, self._output, attended, self._attended_norm)
        normed = self._mlp_norm(hidden)
        if self._experts is not None:
            return hidden + self._experts(normed)
        gate, up = self._gate_up(normed).chunk(2, dim=-1)
        return _added(hidden, self._down, _gated(gate, up, self._sizes), self._activated_norm)

    def _attend(self, normed: Tensor, batch: Batch, cosines: Tensor, sines: Tensor, visible: int) -> Tensor:
        sizes = self._sizes
        tokens = len(cosines)
        parts = self._qkv(normed)[:tokens].view(tokens, -1, sizes.head_dim)  # [tokens, heads + 2 kv_heads, head_dim]
        rotated, value = parts[:, : -sizes.kv_heads], parts[:, -sizes.kv_heads :]
        if self._query_norm is not None and self._key_norm is not None:
            query, key = rotated[:, : sizes.heads], rotated[:, sizes.heads :]
            rotated = torch.cat([self._query_norm(query), self._key_norm(key)], dim=1)
        # The two halves of a head change places.
        rotated = torch.addcmul(rotated * cosines, rotated.roll(sizes.head_dim // 2, dims=-1), sines)
        query, key = rotated[:, : sizes.heads], rotated[:, sizes.heads :]
        scoring = Scoring(sizes.scale, sizes.score_cap, self._sinks, visible)
        attended = attend_slots(batch, self._number, query, key, value, scoring).reshape(tokens, -1)
        return F.pad(attended, (0, 0, 0, len(normed) - tokens)) if len(normed) > tokens else attended


class _Experts:
    """The MLP of a layer in which each token goes through a few of many."""

    def __init__(self, layer: Layer, sizes: Sizes, dtype: torch.dtype) -> None:
        assert layer.router is not None
        assert sizes.experts is not None
        self._experts, self._sizes = sizes.experts, sizes
        self._router, self._router_bias = layer.router.to(dtype), _in(dtype, layer.router_bias)
        self._gate, self._up, self._down = (  # [experts, outputs, inputs] each
            as_tensor(matrix, dtype).view(sizes.experts.count, -1, matrix.shape[1])
            for matrix in (layer.gate, layer.up, layer.down)
        )
        self._gate_bias, self._up_bias, self._down_bias = (  # [experts, outputs], or [experts]
            [None] * sizes.experts.count if bias is None else bias.to(dtype).view(sizes.experts.count, -1)
            for bias in (layer.gate_bias, layer.up_bias, layer.down_bias)
        )

    def __call__(self, x: Tensor) -> Tensor:
        scores = F.linear(x, self._router, self._router_bias).float()  # [tokens, experts]
        best, chosen = scores.topk(self._experts.per_token, dim=-1)
        summed = best if self._experts.weights_add_up else scores
        weights = (best - summed.logsumexp(-1, keepdim=True)).exp().to(x.dtype)  # a softmax
        outputs = torch.zeros_like(x)
        for number in set(chosen.flatten().tolist()):
            tokens, ranks = torch.where(chosen == number)
            gate = F.linear(x[tokens], self._gate[number], self._gate_bias[number])
            up = F.linear(x[tokens], self._up[number], self._up_bias[number])
            made = F.linear(_gated(gate, up, self._sizes), self._down[number], self._down_bias[number])
            outputs.index_add_(0, tokens, made * weights[tokens, ranks, None])
        return outputs


def _gated(gate: Tensor, up: Tensor, sizes: Sizes) -> Tensor:
    """What is between the MLP's matrices."""
    if sizes.limits is not None:
        limit, factor = sizes.limits.limit, sizes.limits.factor
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return gate * torch.sigmoid(factor * gate) * (up + 1)
    return (F.gelu(gate, approximate="tanh") if sizes.is_gelu else F.silu(gate)) * up


def _in(dtype: torch.dtype, vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.to(dtype)


def _added(hidden: Tensor, linear: Linear, inputs: Tensor, norm: "_RMSNorm | None") -> Tensor:
    """The hidden states plus a product, which may have a norm of its own."""
    return linear(inputs, plus=hidden) if norm is None else hidden + norm(linear(inputs))


def _linear(dtype: torch.dtype, *matrices: Matrix, bias: Tensor | None = None) -> Linear:
    """The product with matrices of the same inputs, stacked."""
    first, *others = [as_tensor(matrix, dtype) for matrix in matrices]
    return Linear(torch.cat([first, *others]) if others else first, bias)


class _RMSNorm:
    """Divides by the root of the mean square over the last dimension, and multiplies with a weight.

    A layer norm first takes the mean away. The mean of [x, -x] is zero, so half of its layer norm is the RMS norm of x:
    two operators, and on a CPU faster than `F.rms_norm`.
    """

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        self._weight = torch.stack([weight, weight])  # [2, size]
        self._signs = weight.new_tensor([[1], [-1]])
        self._epsilon = epsilon

    def __call__(self, x: Tensor) -> Tensor:
        both = x.unsqueeze(-2) * self._signs  # [..., 2, size]
        return F.layer_norm(both, self._weight.shape, self._weight, None, self._epsilon)[..., 0, :]

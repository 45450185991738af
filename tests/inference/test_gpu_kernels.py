"""The Triton kernels compute what torch operators compute in float32."""

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.triton_interpreter import DEVICE, DTYPES, IS_INTERPRETED, mend_interpreter

pytestmark = pytest.mark.gpu

EPSILON = 1e-5
HEADS = [(4, 2, 8), (4, 4, 16), (8, 1, 80), *([(8, 2, 64)] if IS_INTERPRETED else [(32, 4, 64), (32, 8, 128)])]


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, imported where there is Triton only."""
    mend_interpreter(monkeypatch)
    return importlib.import_module("inference.decoders.gpu.kernels")


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(DEVICE, dtype)


def assert_near(found: Tensor, expected: Tensor) -> None:
    difference = (found.float() - expected.float()).norm() / expected.float().norm()
    assert difference < (1e-5 if found.dtype == torch.float32 else 2e-2)


def rotated(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    first, second = heads.chunk(2, -1)
    return torch.cat(
        [first * cosines[:, None] - second * sines[:, None], second * cosines[:, None] + first * sines[:, None]], dim=-1
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inputs", "outputs"), [(96, 48), (1100, 64), (2048, 130), (5632, 64)])
def test_a_product_is_computed_with_its_norm_and_its_bias(
    kernels: Any, inputs: int, outputs: int, dtype: torch.dtype
) -> None:
    x, weight = randn(1, inputs, dtype=dtype), randn(outputs, inputs, dtype=dtype) / inputs**0.5
    norm, bias = 1 + randn(inputs, dtype=dtype) / 4, randn(outputs, dtype=dtype)
    product = x.float() @ weight.float().T
    normed = F.rms_norm(x.float(), (inputs,), norm.float(), EPSILON) @ weight.float().T
    assert_near(kernels.multiply(x, weight), product)
    assert_near(kernels.multiply(x, weight, norm=norm, epsilon=EPSILON, bias=bias), normed + bias.float())
    residual = randn(1, outputs, dtype=dtype, seed=1)
    assert_near(kernels.multiply(x, weight, add_to=residual.clone()), residual.float() + product)
    gate, up = normed.chunk(2, -1)
    assert_near(kernels.multiply(x, weight, norm=norm, epsilon=EPSILON, is_gated=True), F.silu(gate) * up)


PAGE_TOKENS = 32


def new_cache(slots: int, columns: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values as they lie in a cache of two layers: [slots, pages, PAGE_TOKENS, kv_heads, head_dim] each."""
    cache = randn(slots, columns // PAGE_TOKENS, 2, 2, PAGE_TOKENS, kv_heads, head_dim, dtype=dtype)
    return cache[:, :, 1, 0], cache[:, :, 1, 1]


def in_order(cached: Tensor) -> Tensor:
    """A copy without pages: [slots, columns, kv_heads, head_dim]."""
    return cached.flatten(1, 2).clone()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [1, 8])
@pytest.mark.parametrize("has_norms", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), HEADS)
def test_single_tokens_attend_to_their_slots(
    kernels: Any, heads: int, kv_heads: int, head_dim: int, has_norms: bool, parts: int, dtype: torch.dtype
) -> None:
    lengths, slots = [0, 3, 70, 200], [2, -1, 0, 1]
    qkv = randn(4, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    keys, values = new_cache(3, 224, kv_heads, head_dim, dtype)
    for slot, length in zip(slots, lengths, strict=True):
        for column in range(length, 224 if slot >= 0 else 0):
            place = slot, column // PAGE_TOKENS, column % PAGE_TOKENS
            keys[place] = values[place] = float("nan")
    cosines, sines = randn(224, head_dim // 2), randn(224, head_dim // 2, seed=1)
    norms = (1 + randn(head_dim, dtype=dtype) / 4, 1 + randn(head_dim, dtype=dtype, seed=1) / 4) if has_norms else None
    old_keys, old_values = in_order(keys), in_order(values)
    positions = torch.tensor(lengths, device=DEVICE)
    of_layer = kernels.Heads(heads, head_dim**-0.5, cosines, sines, *(norms or (None, None)), EPSILON)
    placed = (positions, torch.tensor(slots, device=DEVICE))
    found = kernels.attend_rows(qkv, (keys, values), *placed, of_layer, parts).view(4, heads, head_dim)
    every = qkv.float().view(4, -1, head_dim)
    query, key, value = every[:, :heads], every[:, heads:-kv_heads], every[:, -kv_heads:]
    if norms is not None:
        query, key = (
            F.rms_norm(heads_of, (head_dim,), norm.float(), EPSILON)
            for heads_of, norm in zip((query, key), norms, strict=True)
        )
    query, key = (rotated(one, cosines[positions], sines[positions]) for one in (query, key))
    keys, values = in_order(keys), in_order(values)
    for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        if slot < 0:
            continue
        assert_near(keys[slot, length], key[row].to(dtype))
        assert torch.equal(values[slot, length], value[row].to(dtype))
        all_keys = torch.cat([old_keys[slot, :length].float(), key[row : row + 1]])
        all_values = torch.cat([old_values[slot, :length].float(), value[row : row + 1]])
        all_keys, all_values = (one.repeat_interleave(heads // kv_heads, 1) for one in (all_keys, all_values))
        weights = (torch.einsum("hd,lhd->hl", query[row], all_keys) * head_dim**-0.5).softmax(-1)
        assert_near(found[row], torch.einsum("hl,lhd->hd", weights, all_values).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), HEADS)
def test_chunks_attend_as_single_tokens_do(
    kernels: Any, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype
) -> None:
    chunks = [(0, 0, 9), (2, 70, 1), (1, 30, 18)]  # slots, first positions, tokens
    cosines, sines = randn(96, head_dim // 2), randn(96, head_dim // 2, seed=1)
    tokens = sum(count for _, _, count in chunks)
    qkv = randn(tokens, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    positions = torch.cat([torch.arange(start, start + count) for _, start, count in chunks]).to(DEVICE)
    slots = torch.cat([torch.full((count,), slot) for slot, _, count in chunks]).to(DEVICE)
    size = kernels.tokens_per_block(heads, kv_heads, head_dim, dtype)
    rows = [0, 9, 10]
    blocks = [
        (row + first, min(size, count - first), slot, start + first)
        for row, (slot, start, count) in zip(rows, chunks, strict=True)
        for first in range(0, count, size)
    ]
    one_by_one, at_once = (new_cache(3, 96, kv_heads, head_dim, dtype) for _ in range(2))
    of_layer = kernels.Heads(heads, head_dim**-0.5, cosines, sines)
    each = zip(qkv[:, None], positions[:, None], slots[:, None], strict=True)  # rows of one token
    expected = torch.cat(
        [kernels.attend_rows(one, one_by_one, position, slot, of_layer, parts=1) for one, position, slot in each]
    )
    placed = (positions, slots, torch.tensor(blocks, device=DEVICE))
    assert_near(kernels.attend_chunks(qkv.clone(), at_once, *placed, of_layer), expected)
    for found, wanted in zip(at_once, one_by_one, strict=True):
        assert_near(found, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gate_norm_and_embedding_are_those_of_torch(kernels: Any, dtype: torch.dtype) -> None:
    gate_up, x = randn(3, 2600, dtype=dtype), randn(5, 1100, dtype=dtype)
    gate, up = gate_up.float().chunk(2, -1)
    assert_near(kernels.gate(gate_up), F.silu(gate) * up)
    weight = 1 + randn(1100, dtype=dtype) / 4
    assert_near(kernels.rms_norm(x, weight, EPSILON), F.rms_norm(x.float(), (1100,), weight.float(), EPSILON))
    embedding = randn(50, 1100, dtype=dtype)
    assert torch.equal(kernels.embed(torch.tensor([3, -1, 49], device=DEVICE), embedding), embedding[[3, 0, 49]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_most_likely_token_is_the_first_of_the_largest(kernels: Any, dtype: torch.dtype) -> None:
    logits = (randn(6, 9001) * 3).to(dtype)
    logits[1, 500], logits[2, 8], logits[3] = float("nan"), float("inf"), float("-inf")
    logits[4, 77] = logits[4, 8000] = 60.0
    found = kernels.most_likely(logits).tolist()
    assert found[1:5] == [-1, -1, -1, 77]
    for row in (0, 5):
        assert found[row] == int((logits[row] == logits[row].max()).nonzero()[0])

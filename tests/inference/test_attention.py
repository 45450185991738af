"""Attention over folded heads gives the same result in each of the ways that suit some processor best."""

import pytest
import torch
from torch import Tensor, nn

from inference.cache import attention
from inference.cache.attention import Scoring, grouped_attention
from inference.cache.kv_cache import KVCache
from inference.decoders.torch_decoder import TorchDecoder
from inference.weights.take_apart import take_apart
from study.common.text import piece_of_text
from tests.support.native_models import CONTEXT, VOCABULARY, model_named

HEADS, KV_HEADS, HEAD_DIM = 6, 2, 32
SCALE = HEAD_DIM**-0.5
LENGTH = 480
SIXTEEN_STREAMS, ONE_STREAM, CHUNK = (16, 1), (1, 1), (1, 64)  # rows, tokens


def exact(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention by its definition, head by head: [rows, heads, tokens, head_dim] in float64."""
    group = HEADS // KV_HEADS
    keys, values = (tensor.double().repeat_interleave(group, dim=1) for tensor in (key, value))
    scores = query.double() @ keys.transpose(-1, -2) * SCALE + mask.double()
    answers: Tensor = scores.softmax(-1) @ values
    return answers


@pytest.mark.parametrize("converts", [True, False], ids=["products", "flash"])
@pytest.mark.parametrize(("rows", "tokens"), [SIXTEEN_STREAMS, ONE_STREAM, CHUNK])
def test_grouped_attention_is_attention_by_its_definition(
    converts: bool, rows: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "FLASH_CONVERTS", converts)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).bfloat16()

    query = random(rows, HEADS, tokens, HEAD_DIM)
    # As they lie in the cache: a token's heads side by side.
    key, value = (random(rows, LENGTH + 9, KV_HEADS, HEAD_DIM).transpose(1, 2)[:, :, :LENGTH] for _ in range(2))
    last = torch.arange(LENGTH - rows * tokens, LENGTH).view(rows, 1, tokens, 1)  # what each token may look at
    mask = torch.zeros(rows, 1, tokens, LENGTH).masked_fill(torch.arange(LENGTH) > last, float("-inf")).bfloat16()
    folded_mask = mask if tokens == 1 else mask.repeat(1, 1, HEADS // KV_HEADS, 1)
    found = grouped_attention(query, key, value, folded_mask, Scoring(SCALE))
    expected = exact(query, key, value, mask)
    assert found.shape == expected.shape
    assert ((found.double() - expected).abs().max() / expected.abs().max()).item() < 0.02


@pytest.mark.parametrize(("rows", "tokens", "takes_products"), [(16, 1, True), (1, 64, True), (1, 1, False)])
def test_products_are_taken_where_the_flash_kernel_would_convert_much(
    rows: int, tokens: int, takes_products: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "FLASH_CONVERTS", True)
    products: list[torch.dtype] = []
    baddbmm = torch.baddbmm

    def counted(mask: Tensor, query: Tensor, key: Tensor, alpha: float) -> Tensor:
        products.append(query.dtype)
        return baddbmm(mask, query, key, alpha=alpha)

    monkeypatch.setattr(torch, "baddbmm", counted)
    for dtype in (torch.bfloat16, torch.float32):
        query = torch.zeros(rows, HEADS, tokens, HEAD_DIM, dtype=dtype)
        keys = torch.zeros(rows, KV_HEADS, LENGTH, HEAD_DIM, dtype=dtype)
        mask = torch.zeros(1, 1, 1, LENGTH, dtype=dtype)
        grouped_attention(query, keys, keys, mask, Scoring(SCALE))
    assert products == [torch.bfloat16] * takes_products, "float32 has nothing to convert"


@pytest.mark.parametrize("converts", [True, False], ids=["products", "flash"])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_models_logits_are_as_near_to_exact_ones_as_its_own(
    name: str, converts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "FLASH_CONVERTS", converts)
    token_ids = torch.randint(VOCABULARY, (200,), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        model = model_named(name)
        exact = model(token_ids[None]).logits[0]
        half = nn.Module.to(model, torch.bfloat16)
        own = half(token_ids[None]).logits[0].float()
        cache = KVCache(1, CONTEXT)
        decoder = TorchDecoder(take_apart(half, cache.row_length))
        found = decoder.forward(piece_of_text(token_ids, cache)).float()
    assert ((found - exact).abs().max() / (own - exact).abs().max()).item() < 1.5

"""Attention with what models add to queries, keys and values: masks, sinks, values of another width."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inference.cache.attention import Scoring, grouped_attention, slot_attention

HEADS, KV_HEADS, HEAD_DIM, VALUE_DIM, LENGTH = 6, 2, 16, 12, 40
SCALE = HEAD_DIM**-0.5


def exact_with_sinks(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, sinks: Tensor) -> Tensor:
    """Attention by its definition: a sink adds only to the sum that the weights are divided by."""
    keys, values = (tensor.repeat_interleave(HEADS // KV_HEADS, dim=1) for tensor in (key, value))
    weights = (query @ keys.transpose(-1, -2) * SCALE + mask).exp()
    total = weights.sum(-1, keepdim=True) + sinks.exp().view(1, HEADS, 1, 1)
    answers: Tensor = weights / total @ values
    return answers


@pytest.mark.parametrize(("rows", "tokens"), [(3, 1), (1, 7)])
def test_a_sink_takes_its_share_of_the_weights(rows: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    query, sinks = random(rows, HEADS, tokens, HEAD_DIM), random(HEADS)
    key, value = random(rows, KV_HEADS, LENGTH, HEAD_DIM), random(rows, KV_HEADS, LENGTH, VALUE_DIM)
    last = torch.arange(LENGTH - tokens, LENGTH).view(1, 1, tokens, 1)
    mask = torch.zeros(1, 1, tokens, LENGTH).masked_fill(torch.arange(LENGTH) > last, float("-inf"))
    folded_mask = mask.repeat(1, 1, HEADS // KV_HEADS, 1)
    found = grouped_attention(query, key, value, folded_mask, Scoring(SCALE, sinks=sinks))
    torch.testing.assert_close(found, exact_with_sinks(query, key, value, mask, sinks))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"position_bias": torch.zeros(1)}, "Module adds a bias of its own to the scores"),
        ({"attention_mask": torch.zeros(1, 1, 4, 4)}, "Module makes masks of its own"),
    ],
)
def test_what_attention_does_not_do_is_refused_and_not_overlooked(arguments: dict[str, Any], reason: str) -> None:
    module = nn.Module()
    module.register_buffer("slot_layer", torch.tensor(0))
    tensor = torch.zeros(1, 2, 4, 8)
    with pytest.raises(NotImplementedError, match=reason):
        slot_attention(module, tensor, tensor, tensor, **{"attention_mask": None} | arguments)


def test_a_module_that_does_not_know_its_layer_is_refused() -> None:
    tensor = torch.zeros(1, 2, 4, 8)
    with pytest.raises(NotImplementedError, match="Module does not say which layer it is"):
        slot_attention(nn.Module(), tensor, tensor, tensor, None)

"""Makes texts to try a decoder with, and asks the model by itself for the logits of their last tokens."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inference.decoders.start_check.in_pieces import COMPARED, TOGETHER
from inference.decoders.start_check.model_alone import own_logits
from inference.decoders.start_check.tolerance import HALF_PRECISION

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHORT, NEIGHBOUR = 12, 5
"""Tokens of the text that every model is tried with, and of the one next to it."""
PACE = 64
"""Tokens of the prompt that the model's pace is taken from."""
ATTEMPTS_WITH_EXPERTS = 4
"""How many texts of a length there are for a model with experts in half precision. Where a sum is rounded another way,
a router may choose another expert for a token, and whatever comes after that token is different. What is wrong with a
decoder shows in every text."""
EXPERTS = re.compile(r"(num|n)_.*experts$")


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids, and the logits [compared, vocabulary] that the model by itself gives for the last of them."""

    token_ids: Sequence[int]
    expected: Tensor


@dataclass(frozen=True, slots=True)
class Attempt:
    """Two texts that run together."""

    text: Text
    neighbour: Text


class Texts:
    """The texts of a model, as it is now: with all of its layers, or with the first of them."""

    def __init__(self, model: "PreTrainedModel", context: int) -> None:
        self._model = model
        self._context = context
        self.count = ATTEMPTS_WITH_EXPERTS if model.dtype in HALF_PRECISION and _has_experts(model) else 1
        """How many attempts there are at each length; one that succeeds is enough."""

    def attempts(self, tokens: int) -> list[Attempt]:
        """Texts of this many tokens, or of as many as the context holds, each next to a short one."""
        texts = [self._text(tokens, COMPARED, number) for number in range(self.count)]
        return [Attempt(text, neighbour) for text, neighbour in zip(texts, self._neighbours, strict=True)]

    def seconds_per_token(self) -> float:
        """How long the model takes for a token of a prompt."""
        began = time.perf_counter()
        text = self._text(PACE, 1)
        return (time.perf_counter() - began) / len(text.token_ids)

    @cached_property
    def _neighbours(self) -> list[Text]:
        return [self._text(NEIGHBOUR, TOGETHER, number) for number in range(self.count)]

    def _text(self, tokens: int, compared: int, number: int = 0) -> Text:
        tokens = min(tokens, self._context)
        weight = self._model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        chance = torch.Generator().manual_seed(tokens + 2**20 * number)
        # Ids from 1 on: 0 is padding in many a model, and some count positions without it.
        first = min(1, len(weight) - 1)
        token_ids = torch.randint(first, len(weight), (tokens,), generator=chance).tolist()
        return Text(token_ids, own_logits(self._model, token_ids, min(compared, tokens)))


def _has_experts(model: "PreTrainedModel") -> bool:
    settings = model.config.get_text_config().to_dict()
    return any(EXPERTS.match(name) and isinstance(value, int) and value > 1 for name, value in settings.items())

"""The check at the start: a decoder must give the logits that the model gives by itself.

Two texts run together, the longer one in pieces, as requests do. First a short one; then one that is longer than every
length that the config names within the context (windows, chunks, blocks, scaling floors), for what depends on length
does not show below. What the model says by itself has to be asked before a decoder takes it over.

The check is bounded in time. Where a long text would take the whole model longer than `WHOLE_MODEL_SECONDS`, it goes
through the first layers only, as many as it takes to have one of each kind. Where that too would take longer than
`FEW_LAYERS_SECONDS`, the length is not tried, and a warning says so.
"""

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inference.cache.kv_cache import KVCache
from inference.decoders.decoder import Decoder
from inference.decoders.start_check.few_layers import layers_of_each_kind, shortened
from inference.decoders.start_check.in_pieces import COMPARED, TOGETHER, in_pieces
from inference.decoders.start_check.model_alone import first_line, own_logits
from inference.decoders.start_check.named_lengths import named_lengths
from interface.errors import UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("engine")

TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.02}
"""How far a logit may be from the model's own, relative to the largest, before the model counts as unsupported."""
EXACT_TOLERANCE = 1e-3
"""The same in float32."""
QUANTIZED_TOLERANCE = 1.0
"""The root mean square of the difference, relative to the logits', where weights are rounded to few bits. Logits that
have nothing to do with each other differ by 1.4; quantized products are tried out by themselves, to rounding."""

SHORT, NEIGHBOUR = 12, 5
"""Tokens of the text that every model is tried with, and of the one next to it."""
LONG = 150
"""Tokens of one more text where the check may take its time."""
PACE = 64
"""Tokens of the prompt that the model's pace is taken from."""
BEYOND = 12
"""How many tokens a text goes beyond a length that the config names."""
WHOLE_MODEL_SECONDS, FEW_LAYERS_SECONDS = 10.0, 60.0
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
class LengthTrial:
    """Texts that go beyond a length that the config names; `layers` of the model compute them."""

    setting: str
    length: int
    attempts: Sequence[tuple[Text, Text]]  # each with its neighbour
    layers: int | None  # None: all


@dataclass(frozen=True, slots=True)
class Finding:
    """What came out of one comparison: how far the logits were from the model's own, relative to the largest."""

    tokens: int
    setting: str  # why so many: "" or what the config calls the length that they go beyond
    difference: float


class Trial:
    """Texts with the model's own logits, and what they find out about a decoder.

    Args:
        depends_on_length: False for a decoder whose every token is computed alike; it is then tried beyond the config's
            lengths only if the whole model does that quickly.
        is_bounded: False to take as long as it takes, with the whole model.

    Raises:
        UnsupportedModel: the model by itself gives no logits.
    """

    def __init__(
        self, model: "PreTrainedModel", cache: KVCache, depends_on_length: bool = True, is_bounded: bool = True
    ) -> None:
        self.findings: list[Finding] = []
        self._model = model
        self._name = type(model).__name__
        self._is_exact = model.dtype not in TOLERANCE
        self._tolerance = TOLERANCE.get(model.dtype, EXACT_TOLERANCE)
        self._cache = cache
        self._attempts = ATTEMPTS_WITH_EXPERTS if not self._is_exact and _has_experts(model) else 1
        self._neighbours = self._texts(NEIGHBOUR, TOGETHER)
        self._short = self._next_to_neighbours(SHORT)
        self._lengths = list(self._length_trials(depends_on_length, is_bounded))

    def verify_quantized(self, decoder: Decoder, kind: str) -> None:
        """Try a decoder whose weights have been rounded to few bits, and say how much that changes.

        Raises:
            UnsupportedModel: little of the model's own logits is left.
        """
        difference = self._difference(decoder, self._short[0], _typical_difference)
        self.findings.append(Finding(len(self._short[0][0].token_ids), "", difference))
        if not difference < QUANTIZED_TOLERANCE:  # logits of nothing but zeros differ by just that
            raise UnsupportedModel(
                f"With weights in {kind} {self._name} gives other logits (by {difference:.1%}). Serve it without "
                f"ENGINE_QUANTIZE."
            )
        log.info("With weights in %s the logits of a short text differ by %.1f%%", kind, 100 * difference)

    def verify(self, decoder: Decoder) -> None:
        """Try a decoder with the short text and its neighbour.

        Raises:
            UnsupportedModel: the logits are not the model's own.
        """
        difference = self._least_difference(decoder, self._short)
        if not difference <= self._tolerance:
            raise UnsupportedModel(
                f"{self._name} gives other logits on this engine's cache than by itself (by "
                f"{difference:.1%} of the largest). Expected a decoder that keeps only the keys and values of layers."
            )

    def verify_lengths(self, decoder: Decoder) -> None:
        """Try a decoder that has passed `verify` beyond each length that the config names.

        Raises:
            UnsupportedModel: from some length on the logits are not the model's own.
        """
        for trial in self._lengths:
            try:
                with shortened(self._model, trial.layers):
                    difference = self._least_difference(decoder, trial.attempts, trial.setting)
                reason = f"gives other logits than by itself (by {difference:.1%} of the largest)"
            except Exception as error:
                difference, reason = float("nan"), f"cannot be computed ({first_line(error)})"
            if difference <= self._tolerance:
                continue
            if not trial.setting:
                raise UnsupportedModel(f"{self._name} {reason} on this engine's cache at {LONG} tokens.")
            raise UnsupportedModel(
                f"{self._name} {reason} on this engine's cache beyond {trial.length} tokens, the config's "
                f"{trial.setting}. Up to there it runs right: set the context to {trial.length} "
                f"(ENGINE_CONTEXT={trial.length})."
            )

    def _length_trials(self, depends_on_length: bool, is_bounded: bool) -> Iterator[LengthTrial]:
        few = layers_of_each_kind(self._model)
        lengths = {
            setting: length
            for setting, length in named_lengths(self._model.config).items()
            if length < self._cache.context
        }
        pace = self._seconds_per_token() if lengths else 0.0
        for setting, length in sorted(lengths.items(), key=lambda item: item[1]):
            tokens = min(length + BEYOND, self._cache.context)
            seconds = pace * tokens * self._attempts
            if seconds <= WHOLE_MODEL_SECONDS or not is_bounded:
                yield LengthTrial(setting, length, self._next_to_neighbours(tokens), layers=None)
            elif not depends_on_length:
                continue
            elif few is not None and seconds * few.share <= FEW_LAYERS_SECONDS:
                with shortened(self._model, few.count):
                    attempts = list(zip(self._texts(tokens), self._texts(NEIGHBOUR, TOGETHER), strict=True))
                yield LengthTrial(setting, length, attempts, few.count)
            else:
                log.warning(
                    "Not checked beyond %d tokens, the config's %s: that would take about %.0f s. To stay below, set "
                    "ENGINE_CONTEXT=%d.",
                    *(length, setting, seconds, length),
                )
        if not is_bounded and self._cache.context > SHORT:
            yield LengthTrial("", 0, self._next_to_neighbours(LONG), layers=None)

    def _seconds_per_token(self) -> float:
        """How long the model takes for a token of a prompt."""
        began = time.perf_counter()
        text = self._text(PACE, 1)
        return (time.perf_counter() - began) / len(text.token_ids)

    def _next_to_neighbours(self, tokens: int) -> list[tuple[Text, Text]]:
        return list(zip(self._texts(tokens), self._neighbours, strict=True))

    def _texts(self, tokens: int, compared: int = COMPARED) -> list[Text]:
        """A text for each attempt that there may be."""
        return [self._text(tokens, compared, number) for number in range(self._attempts)]

    def _text(self, tokens: int, compared: int, number: int = 0) -> Text:
        tokens = min(tokens, self._cache.context)
        weight = self._model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        chance = torch.Generator().manual_seed(tokens + 2**20 * number)
        # Ids from 1 on: 0 is padding in many a model, and some count positions without it.
        token_ids = torch.randint(1, len(weight), (tokens,), generator=chance).tolist()
        return Text(token_ids, own_logits(self._model, token_ids, min(compared, tokens)))

    def _least_difference(self, decoder: Decoder, attempts: Sequence[tuple[Text, Text]], setting: str = "") -> float:
        """How far a decoder's logits are from the model's own; further attempts follow until one is near enough."""
        least = math.inf
        for texts in attempts:
            difference = self._difference(decoder, texts, self._largest_difference)
            least = difference if math.isnan(difference) else min(least, difference)
            if math.isnan(least) or least <= self._tolerance:
                break
        self.findings.append(Finding(len(attempts[0][0].token_ids), setting, least))
        return least

    def _difference(
        self, decoder: Decoder, attempt: tuple[Text, Text], measure: Callable[[Tensor, Tensor], float]
    ) -> float:
        """How far a decoder's logits are from the model's own, relative to the largest; the neighbour's as well."""
        texts = attempt[: self._cache.slots]
        found = in_pieces(decoder, self._cache, self._model.device, [list(text.token_ids) for text in texts])
        differences = [measure(logits, text.expected) for logits, text in zip(found, texts, strict=True)]
        return next((difference for difference in differences if math.isnan(difference)), max(differences))

    def _largest_difference(self, logits: Tensor, expected: Tensor) -> float:
        """Of any row of [compared, vocabulary]; in half precision the middle row's, of those together or alone.

        There, a router may choose another expert when a sum is rounded another way, and that token's logits jump. What
        is wrong with a decoder shows in every row.
        """
        differences = (logits.float() - expected.float()).abs().amax(-1) / expected.float().abs().max()
        if self._is_exact:
            return float(differences.max().item())
        return float(torch.stack([rows.median() for rows in torch.split(differences, TOGETHER)]).max().item())


def _has_experts(model: "PreTrainedModel") -> bool:
    settings = model.config.get_text_config().to_dict()
    return any(EXPERTS.match(name) and isinstance(value, int) and value > 1 for name, value in settings.items())


def _typical_difference(logits: Tensor, expected: Tensor) -> float:
    """Root mean square, relative to the logits'."""
    return float((torch.linalg.norm(logits.float() - expected.float()) / torch.linalg.norm(expected.float())).item())

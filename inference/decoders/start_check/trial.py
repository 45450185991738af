"""The check at the start: a decoder must give the logits that the model gives by itself.

Two texts run together, the longer one in pieces, as requests do. First a short one; then one that is longer than every
length that the config names within the context, for what depends on length does not show below. What the model says by
itself has to be asked before a decoder takes it over, so a trial is prepared first and verifies afterwards.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from inference.cache.kv_cache import KVCache
from inference.decoders.decoder import Decoder
from inference.decoders.start_check.few_layers import shortened
from inference.decoders.start_check.in_pieces import in_pieces
from inference.decoders.start_check.length_trials import LengthTrial, bounded_trials, unbounded_trials
from inference.decoders.start_check.named_lengths import named_lengths
from inference.decoders.start_check.texts import SHORT, Attempt, Texts
from inference.decoders.start_check.tolerance import QUANTIZED, Tolerance, largest, typical_difference
from inference.messages import first_line
from interface.errors import UnsupportedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("engine")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one comparison: how far the logits were from the model's own, relative to the largest."""

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
        self, model: "PreTrainedModel", cache: KVCache, depends_on_length: bool, is_bounded: bool = True
    ) -> None:
        self.findings: list[Finding] = []
        self._model = model
        self._name = type(model).__name__
        self._cache = cache
        self._tolerance = Tolerance.of(model.dtype)
        texts = Texts(model, cache.context)
        self._short = texts.attempts(SHORT)
        self._lengths = list(
            bounded_trials(model, cache.context, texts, depends_on_length)
            if is_bounded
            else unbounded_trials(model, cache.context, texts)
        )

    def verify_quantized(self, decoder: Decoder, kind: str) -> None:
        """Try a decoder whose weights have been rounded to few bits, and say how much that changes.

        Raises:
            UnsupportedModel: little of the model's own logits is left.
        """
        attempt = self._short[0]
        difference = self._difference(decoder, attempt, typical_difference)
        self.findings.append(Finding(len(attempt.text.token_ids), "", difference))
        if not difference < QUANTIZED:  # logits of nothing but zeros differ by just that
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
        if not self._tolerance.admits(difference):
            raise UnsupportedModel(
                f"{self._name} gives other logits on this engine's cache than by itself ({_how_far(difference)})"
                f"{_beyond_named(self._model)}. Expected a decoder that keeps only its layers' keys and values, or "
                f"states."
            )

    def verify_lengths(self, decoder: Decoder) -> None:
        """Try a decoder that has passed `verify` beyond each length that the config names.

        Raises:
            UnsupportedModel: from some length on the logits are not the model's own.
        """
        for trial in self._lengths:
            if (fault := self._fault_at(trial, decoder)) is not None:
                raise UnsupportedModel(f"{self._name} {fault} on this engine's cache {trial.where}")

    def _fault_at(self, trial: LengthTrial, decoder: Decoder) -> str | None:
        """Return what is wrong with a decoder at one length, if anything is."""
        try:
            with shortened(self._model, trial.layers):
                difference = self._least_difference(decoder, trial.attempts, trial.setting)
        except Exception as error:  # there is no end of ways in which a model's code may not fit
            return f"cannot be computed ({first_line(error)})"
        if self._tolerance.admits(difference):
            return None
        return f"gives other logits than by itself ({_how_far(difference)})"

    def _least_difference(self, decoder: Decoder, attempts: Sequence[Attempt], setting: str = "") -> float:
        """How far a decoder's logits are from the model's own; further attempts follow until one is near enough."""
        least = math.inf
        for attempt in attempts:
            difference = self._difference(decoder, attempt, self._tolerance.difference)
            least = difference if math.isnan(difference) else min(least, difference)
            if math.isnan(least) or self._tolerance.admits(least):
                break
        self.findings.append(Finding(len(attempts[0].text.token_ids), setting, least))
        return least

    def _difference(self, decoder: Decoder, attempt: Attempt, measure: Callable[[Tensor, Tensor], float]) -> float:
        """How far a decoder's logits are from the model's own, of a text or of its neighbour: whichever is further."""
        texts = (attempt.text, attempt.neighbour)[: self._cache.slots]
        found = in_pieces(decoder, self._cache, self._model.device, [list(text.token_ids) for text in texts])
        return largest([measure(logits, text.expected) for logits, text in zip(found, texts, strict=True)])


def _beyond_named(model: "PreTrainedModel") -> str:
    """The shortest length that a config names, if the short text is longer."""
    windows = [(length, name) for name, length in named_lengths(model.config) if length < SHORT]
    if not windows:
        return ""
    length, name = min(windows)
    return f", beyond the {length} tokens of the config's {name}"


def _how_far(difference: float) -> str:
    return "some are not finite" if math.isnan(difference) else f"by {difference:.1%} of the largest"

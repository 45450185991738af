"""Chooses the longer texts that a decoder is tried with: beyond every length that the config names, as time allows.

What depends on length (windows, chunks, blocks, scaling floors) does not show below. Where a long text would take the
whole model longer than `WHOLE_MODEL_SECONDS`, it goes through the first layers only, as many as it takes to have one of
each kind. Where that too would take longer than `FEW_LAYERS_SECONDS`, the length is not tried, and a warning says so.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inference.decoders.start_check.few_layers import layers_of_each_kind, shortened
from inference.decoders.start_check.named_lengths import named_lengths
from inference.decoders.start_check.texts import SHORT, Attempt, Texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("engine")

BEYOND = 12
"""How many tokens a text goes beyond a length that the config names."""
LONG = 150
"""Tokens of one more text where the check may take its time."""
WHOLE_MODEL_SECONDS, FEW_LAYERS_SECONDS = 10.0, 60.0


@dataclass(frozen=True, slots=True)
class LengthTrial:
    """Attempts at one length, which `layers` of the model compute; None: all."""

    attempts: Sequence[Attempt]
    layers: int | None = None
    setting: str = ""
    """The config's setting whose length the texts exceed; "" if they are long for another reason."""
    length: int = 0

    @property
    def where(self) -> str:
        """The end of the sentence that refuses a model which fails at this length."""
        if not self.setting:
            return f"at {LONG} tokens."
        return (
            f"beyond {self.length} tokens, the config's {self.setting}. Up to there it works: set "
            f"ENGINE_CONTEXT={self.length}."
        )


def bounded_trials(
    model: "PreTrainedModel", context: int, texts: Texts, depends_on_length: bool
) -> Iterator[LengthTrial]:
    """The lengths that can be tried in the time that a start has.

    Args:
        texts: those of the whole model.
        depends_on_length: False for a decoder whose every token is computed alike; it is then tried only beyond what
            the whole model does quickly.
    """
    lengths = _lengths_within(model, context)
    few = layers_of_each_kind(model)
    pace = texts.seconds_per_token() if lengths else 0.0
    for setting, length in lengths:
        tokens = length + BEYOND
        seconds = pace * min(tokens, context) * texts.count
        if seconds <= WHOLE_MODEL_SECONDS:
            yield LengthTrial(texts.attempts(tokens), None, setting, length)
        elif depends_on_length and few is not None and seconds * few.share <= FEW_LAYERS_SECONDS:
            with shortened(model, few.count):
                attempts = Texts(model, context).attempts(tokens)
            yield LengthTrial(attempts, few.count, setting, length)
        elif depends_on_length:
            log.warning(
                "Not checked beyond %d tokens, the config's %s: that would take about %.0f s. To stay below, set "
                "ENGINE_CONTEXT=%d.",
                *(length, setting, seconds, length),
            )


def unbounded_trials(model: "PreTrainedModel", context: int, texts: Texts) -> Iterator[LengthTrial]:
    """Every length, and one more text, with the whole model: it takes as long as it takes."""
    for setting, length in _lengths_within(model, context):
        yield LengthTrial(texts.attempts(length + BEYOND), None, setting, length)
    if context > SHORT:
        yield LengthTrial(texts.attempts(LONG))


def _lengths_within(model: "PreTrainedModel", context: int) -> list[tuple[str, int]]:
    """What the config calls the lengths below the context, and those lengths, the shortest first."""
    named = sorted(named_lengths(model.config), reverse=True)  # of two names of a length, the same one at every start
    lengths = {length: name for name, length in named if length < context}
    return [(lengths[length], length) for length in sorted(lengths)]

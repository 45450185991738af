"""Tokens that must not come next: ends of the text before `min_tokens`, and what the model's files forbid."""

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from inference.scheduling.repeats import Repeats

TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelBans:
    """What a model's `generation_config.json` forbids at some places only."""

    first: Collection[int] = ()
    """Tokens that do not begin an answer: its `begin_suppress_tokens`."""
    after: Mapping[int, Sequence[tuple[TokenIds, int]]] = field(default_factory=dict)
    """By the last token of a text: what the text ends with, and the token that must not follow that."""
    no_repeat: int = 0
    """No sequence of this many tokens comes twice in a prompt and its answer (`no_repeat_ngram_size`). 0 is off."""
    min_new_tokens: int = 0
    """No answer ends before it has this many tokens."""
    min_length: int = 0
    """No answer ends before it has this many tokens together with its prompt."""

    @classmethod
    def of(cls, first: Iterable[int] = (), words: Iterable[TokenIds] = ()) -> "ModelBans":
        """Make the bans of `begin_suppress_tokens`, and of those `bad_words_ids` that are several tokens."""
        after: dict[int, list[tuple[TokenIds, int]]] = {}
        for *beginning, last in words:
            after.setdefault(beginning[-1], []).append((tuple(beginning), last))
        return cls(frozenset(first), after)

    def below(self, vocabulary: int) -> "ModelBans":
        """Return the bans without those of tokens that the model has no logits for."""
        words = [
            (*beginning, last) for bans in self.after.values() for beginning, last in bans if 0 <= last < vocabulary
        ]
        below = ModelBans.of((token_id for token_id in self.first if 0 <= token_id < vocabulary), words)
        return replace(self, first=below.first, after=below.after)

    def min_tokens(self, prompt_tokens: int) -> int:
        """The length before which an answer to a prompt of this length does not end."""
        return max(self.min_new_tokens, self.min_length - prompt_tokens)


NO_BANS = ModelBans()


class Bans:
    """The tokens that one sequence must not go on with.

    Args:
        end_ids: the tokens that end the text.
        min_tokens: how many tokens come before any of these may.
    """

    def __init__(self, model: ModelBans, prompt_ids: Sequence[int], end_ids: Iterable[int], min_tokens: int) -> None:
        self._model = model
        self._prompt_ids = prompt_ids
        self._ends = array("q", end_ids)
        self._min_tokens = min_tokens
        self._repeats = Repeats(model.no_repeat, prompt_ids) if model.no_repeat else None

    def after(self, output_ids: Sequence[int]) -> "array[int] | None":
        """The tokens that must not follow the prompt and these tokens."""
        banned = self._ends if len(output_ids) < self._min_tokens else None
        others = [*([] if output_ids else self._model.first), *self._ends_of_words(output_ids)]
        if self._repeats is not None:
            others += self._repeats.after(output_ids)
        return array("q", [*(banned or ()), *others]) if others else banned

    def _ends_of_words(self, output_ids: Sequence[int]) -> list[int]:
        if not self._model.after:
            return []
        newest = output_ids[-1] if output_ids else self._prompt_ids[-1]
        bans = self._model.after.get(newest, ())
        return [last for beginning, last in bans if self._ends_with(output_ids, beginning)]

    def _ends_with(self, output_ids: Sequence[int], beginning: TokenIds) -> bool:
        of_prompt = len(beginning) - len(output_ids)
        text = output_ids if of_prompt <= 0 else [*self._prompt_ids[-of_prompt:], *output_ids]
        return tuple(text[-len(beginning) :]) == beginning

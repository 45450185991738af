"""Log probabilities as completions and chat completions show them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from contract.answers import Wire
from interface.events import Logprobs, TokenLogprob

LOWEST = -9999.0
"""Shown for a probability of zero, whose logarithm JSON cannot represent."""


@dataclass(frozen=True, slots=True)
class TopLogprob(Wire):
    """A token that could have been chosen. `bytes` are its own, so half a character survives."""

    token: str
    logprob: float
    bytes: list[int]


@dataclass(frozen=True, slots=True)
class ChatTokenLogprob(Wire):
    """A token of the answer, and the most likely alternatives."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


@dataclass(frozen=True, slots=True)
class ChatLogprobs(Wire):
    content: list[ChatTokenLogprob]
    refusal: None


@dataclass(frozen=True, slots=True)
class TextLogprobs(Wire):
    """Four lists of the same length, with an entry per token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


def finite(logprob: float | None) -> float:
    """Return a log probability as a number that JSON can represent: `LOWEST` at least."""
    return LOWEST if logprob is None else max(logprob, LOWEST)


def chat_logprob(logprobs: Logprobs) -> ChatTokenLogprob:
    chosen = logprobs.chosen
    return ChatTokenLogprob(chosen.token, finite(chosen.logprob), list(chosen.bytes), [*map(_top, logprobs.top)])


def _top(token: TokenLogprob) -> TopLogprob:
    return TopLogprob(token.token, finite(token.logprob), list(token.bytes))


@dataclass(slots=True)
class TextOffsets:
    """The offsets of the tokens in the text, in characters.

    A token that begins in the middle of a character has the offset of that character.
    """

    _characters: int = 0

    def of(self, token: TokenLogprob) -> int:
        continued = [byte & 0xC0 == 0x80 for byte in token.bytes]
        offset = self._characters - bool(continued and continued[0] and self._characters)
        self._characters += continued.count(False)
        return offset

    def of_prompt(self, text: str, tokens: Sequence[TokenLogprob]) -> list[int]:
        """Return those of a prompt's tokens.

        Its text has no part for some of them: for a BOS token, and for the space with which SentencePiece begins a
        text. If the tokenizer has changed the text (its case, for example), each token counts as long as it is.
        """
        whole, place = text.encode(), 0
        places = []
        for token in tokens:
            places.append(place)
            for piece in (token.bytes, token.bytes.removeprefix(b" ") if place == 0 else token.bytes):
                if whole.startswith(piece, place):
                    place += len(piece)
                    break
        if place < len(whole):
            return [self.of(token) for token in tokens]
        self._characters = len(text)
        is_continued = [byte & 0xC0 == 0x80 for byte in whole] + [False]
        characters = [0, *accumulate(not continues for continues in is_continued)]
        return [characters[place] - is_continued[place] for place in places]


def text_logprobs(tokens: Sequence[Logprobs], text_offset: list[int]) -> TextLogprobs:
    return TextLogprobs(
        tokens=[token.chosen.token for token in tokens],
        token_logprobs=[None if token.chosen.logprob is None else finite(token.chosen.logprob) for token in tokens],
        top_logprobs=[None if token.chosen.logprob is None else _by_text(token) for token in tokens],
        text_offset=text_offset,
    )


def _by_text(logprobs: Logprobs) -> dict[str, float]:
    """The alternatives and the chosen token by their texts; of several with one text, the most likely counts."""
    by_text: dict[str, float] = {}
    for token in (*logprobs.top, logprobs.chosen):
        by_text[token.token] = max(by_text.get(token.token, LOWEST), finite(token.logprob))
    return by_text


def joined(pieces: Iterable[TextLogprobs]) -> TextLogprobs:
    """The lists of several pieces as one."""
    whole = TextLogprobs([], [], [], [])
    for piece in pieces:
        whole.tokens.extend(piece.tokens)
        whole.token_logprobs.extend(piece.token_logprobs)
        whole.top_logprobs.extend(piece.top_logprobs)
        whole.text_offset.extend(piece.text_offset)
    return whole

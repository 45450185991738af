"""The answers of `POST /v1/completions`: the same object for a whole answer and for a piece of a stream."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from contract.answers import Wire
from contract.openai.logprobs import TextLogprobs, TextOffsets, joined, text_logprobs
from contract.openai.stream import FINISH_REASONS, Head, by_choice
from contract.openai.usage import CompletionUsage
from interface.events import Event, Failed, Finished, FinishReason, Logprobs, PromptEcho, Token


@dataclass(slots=True)  # not frozen: one is made for each token, and that would take four times as long
class TextPiece(Wire):
    """A choice, or a piece of one."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | int | None = None
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None


@dataclass(slots=True)
class TextCompletion(Wire):
    """An answer, or an event of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextPiece]
    usage: CompletionUsage | None = None
    system_fingerprint: str | None = None


@dataclass(slots=True)
class TextAssembly:
    """Turns events into pieces."""

    head: Head
    shows_prompt: bool = False
    shows_tokens: bool = True
    """False for max_tokens 0: the engine makes one token at least, which is then not shown."""
    shows_logprobs: bool = False
    shows_token_ids: bool = False
    finished: dict[int, Finished] = field(default_factory=dict)
    _offsets: dict[int, TextOffsets] = field(default_factory=dict)

    def start(self) -> Iterable[TextPiece]:
        return ()

    def take(self, event: Event) -> TextPiece | None:
        match event:
            case PromptEcho():
                return self._prompt(event)
            case Token():
                return self._token(event) if self.shows_tokens else None
            case Finished():
                return self._end(event)
            case Failed():
                raise TypeError("a failure is not a piece of an answer")

    def only_text(self, token: Token) -> str | None:
        return None if self.shows_token_ids or self.shows_logprobs or not self.shows_tokens else token.text

    def text_piece(self, index: int, text: str) -> TextPiece:
        return TextPiece(index, text, None, None)

    def chunk(self, pieces: list[TextPiece], usage: CompletionUsage | None) -> TextCompletion:
        head = self.head
        return TextCompletion(
            head.id, "text_completion", head.created, head.model, pieces, usage, head.system_fingerprint
        )

    def whole(self, pieces: list[TextPiece], usage: CompletionUsage) -> TextCompletion:
        return self.chunk([_joined(choice) for choice in by_choice(pieces)], usage)

    def _end(self, finished: Finished) -> TextPiece:
        if not self.shows_tokens:
            finished = replace(finished, finish_reason="length", stop_reason=None, completion_tokens=0)
        self.finished[finished.index] = finished
        reason = FINISH_REASONS[finished.finish_reason]
        return TextPiece(finished.index, "", None, reason, finished.stop_reason)

    def _prompt(self, echo: PromptEcho) -> TextPiece | None:
        token_ids = (
            [token_id for token in echo.tokens if (token_id := token.chosen.token_id) is not None]
            if self.shows_token_ids
            else None
        )
        if not self.shows_prompt:
            return TextPiece(echo.index, "", None, None, prompt_token_ids=token_ids)
        logprobs = self._logprobs(echo.index, echo.tokens, echo.text)
        return TextPiece(echo.index, echo.text, logprobs, None, prompt_token_ids=token_ids)

    def _token(self, token: Token) -> TextPiece | None:
        logprobs = self._logprobs(token.index, () if token.logprobs is None else (token.logprobs,))
        token_ids = token.ids() if self.shows_token_ids else None
        if not token.text and logprobs is None and token_ids is None:
            return None  # half a character, or what could become a stop string; it comes with a later token
        return TextPiece(token.index, token.text, logprobs, None, token_ids=token_ids)

    def _logprobs(self, index: int, tokens: Sequence[Logprobs], prompt: str | None = None) -> TextLogprobs | None:
        if not self.shows_logprobs or not tokens:
            return None
        offsets, chosen = self._offsets.setdefault(index, TextOffsets()), [token.chosen for token in tokens]
        return text_logprobs(
            tokens, [offsets.of(token) for token in chosen] if prompt is None else offsets.of_prompt(prompt, chosen)
        )


def _joined(pieces: list[TextPiece]) -> TextPiece:
    """A choice, of all its pieces; the last one has the reason why it ends."""
    logprobs = [piece.logprobs for piece in pieces if piece.logprobs is not None]
    return TextPiece(
        pieces[-1].index,
        "".join(piece.text for piece in pieces),
        joined(logprobs) if logprobs else None,
        pieces[-1].finish_reason,
        pieces[-1].stop_reason,
        _concatenated([piece.prompt_token_ids for piece in pieces]),
        _concatenated([piece.token_ids for piece in pieces]),
    )


def _concatenated(lists: Iterable[list[int] | None]) -> list[int] | None:
    """The lists as one; None if there are none."""
    parts = [part for part in lists if part is not None]
    return [token_id for part in parts for token_id in part] if parts else None

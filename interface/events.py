"""The events of an engine: for each sequence one `Token` after another, then one terminal event.

The terminal events are `Finished` and `Failed`; nothing follows them. Every event carries the `index` of its sequence
among those of one request.
"""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "abort"]
FailureKind = Literal["engine_error", "shutdown", "unusable_grammar"]
TextKind = Literal["content", "reasoning"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token that was, or could have been, chosen. `bytes` are exact, also where `token` is half a character.

    `token_id` is None if the engine is a server that sends only texts.
    """

    token_id: int | None
    token: str
    bytes: bytes
    logprob: float | None
    """Natural logarithm of its probability under the raw logits; None for a prompt's first token."""


@dataclass(frozen=True, slots=True)
class Logprobs:
    """A chosen token, and the most likely alternatives in falling order."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text of the answer, or of the reasoning before it."""

    kind: TextKind
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A tool call. `arguments` is a JSON object as text.

    If `is_whole` is False, this is only the beginning of the arguments, and the rest follows in `ArgumentsPart`s. An
    engine sends a call in pieces only if a grammar guarantees that it is one.
    """

    name: str
    arguments: str
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class ArgumentsPart:
    """The next piece of the arguments of the last call."""

    text: str


Part = TextPart | ToolCallPart | ArgumentsPart


@dataclass(frozen=True, slots=True)
class PromptEcho:
    """The prompt, for requests that ask for it; comes before the first token.

    `tokens` has an entry per prompt token. Log probabilities are there only if the request asked for them.
    """

    text: str
    tokens: tuple[Logprobs, ...]
    index: int = 0


@dataclass(slots=True)  # not frozen: one is made for every token, and a frozen one takes five times as long
class Token:
    """One token. `ms` is the prefill's time for the first one, else the time since the token before it.

    `text` may be empty: half a character, or what could still become a stop string, is held back for a later token.
    `parts` is None unless the request asked for its response to be parsed; then it replaces `text`.
    `token_id` is None if the engine is a server that sends only texts; the text may then be that of several tokens.
    """

    text: str
    token_id: int | None
    ms: float
    is_first: bool
    index: int = 0
    logprobs: Logprobs | None = None
    parts: tuple[Part, ...] | None = None

    def ids(self) -> list[int]:
        """A list of the token id, or an empty one if it is not known."""
        return [] if self.token_id is None else [self.token_id]

    def as_parts(self) -> tuple[Part, ...]:
        """The token's parts; without parsing, all text is content."""
        if self.parts is not None:
            return self.parts
        return (TextPart("content", self.text),) if self.text else ()

    @property
    def only_content(self) -> str | None:
        """The token's text if it has nothing but content, as nearly every token; None otherwise."""
        parts = self.parts
        if parts is None:
            return self.text
        if not parts:
            return ""
        only = parts[0]
        return only.text if len(parts) == 1 and isinstance(only, TextPart) and only.kind == "content" else None


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a sequence. Times are in milliseconds; `total_ms` also counts the wait for a slot.

    `cached_tokens` is how many tokens of the prompt were in the prefix cache, and needed no prefill.
    `stop_reason` is the stop string or the token id that ended the text, if one did.
    """

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    prefill_ms: float
    decode_ms: float
    total_ms: float
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    stop_reason: str | int | None = None
    index: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The end of a sequence that the service could not finish."""

    message: str
    kind: FailureKind
    index: int = 0


Event = PromptEcho | Token | Finished | Failed
TerminalEvent = Finished | Failed

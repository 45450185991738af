"""The requests to an engine: a prompt, the sampling parameters, and what the answer must look like.

A `GenerationRequest` is one sequence of tokens. An HTTP request may hold several of them, one for each prompt of a
list and for each of its `n` choices; their `index` tells them apart in the answer.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from interface.errors import PromptTooLong, UnusablePrompt

SequenceId = int
"""The engine's number for one sequence. (`request_id`, a string, is the client's.)"""

DEFAULT_MAX_TOKENS = 128
DEFAULT_TEMPERATURE = 0.7
MAX_INTEGER = 2**63 - 1
"""Every number of a request must fit a signed 64-bit integer."""
MAX_LOGPROBS = 20
BANNED = -100.0
"""A bias this low bans its token, however large its logit is."""
SMALLEST_TOP_P = 1e-9
"""Keeps the most likely token alone. OpenAI's and Anthropic's clients write 0 for it."""

MOST_STOP_STRINGS = 64
"""Where clients send more than 4: editors that complete code send a dozen to servers other than OpenAI's own."""

StopString = Annotated[str, Field(min_length=1)]
StopStringList = Annotated[list[StopString], Field(max_length=4)]
TokenId = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


def stop_as_list(stop: object) -> object:
    """Turn a single stop string into a list of one; leave anything else for the field's own check."""
    return [stop] if isinstance(stop, str) else stop


class SamplingParams(BaseModel):
    """How to choose each token, and when to stop.

    A field that is None takes the model's own default where its generation config has one, and the documented
    default otherwise.

    Raises:
        pydantic.ValidationError: a value is out of range or of the wrong type, or a field is unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    max_tokens: int | None = Field(
        default=None,
        ge=1,
        le=MAX_INTEGER,
        description="Stop after this many tokens. The default is 128, or what is left of the context if that is less.",
    )
    min_tokens: int = Field(
        default=0, ge=0, le=MAX_INTEGER, description="Do not let the model end its text before this many tokens."
    )
    temperature: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="0 always takes the most likely token (greedy). The default is the model's own, or else 0.7.",
    )
    top_p: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Sample from the smallest set of tokens whose probabilities add up to this. "
        "The default is the model's own, or else 1, which is off.",
    )
    top_k: int | None = Field(
        default=None,
        ge=0,
        le=MAX_INTEGER,
        description="Sample from this many of the most likely tokens. "
        "The default is the model's own, or else 0, which is off.",
    )
    min_p: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Sample only tokens at least this fraction as probable as the most likely one. "
        "The default is the model's own, or else 0, which is off.",
    )
    presence_penalty: float = Field(
        default=0.0, ge=-2, le=2, description="Subtracted from the logit of every token generated so far."
    )
    frequency_penalty: float = Field(
        default=0.0, ge=-2, le=2, description="Subtracted from a token's logit once for each time it was generated."
    )
    repetition_penalty: float | None = Field(
        default=None,
        ge=0.01,  # with much less, logits would be infinite
        le=100,
        description="Divides the logit of every token seen so far (multiplies it, if negative). "
        "The default is the model's own, or else 1, which is off.",
    )
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        default=None, description="Added to the logits of these token ids. -100 bans a token, 100 forces it."
    )
    seed: int | None = Field(
        default=None, ge=-(2**63), le=MAX_INTEGER, description="Makes sampling repeatable. null takes a fresh seed."
    )
    stop: Annotated[
        StopStringList | None, BeforeValidator(stop_as_list, json_schema_input_type=StopString | StopStringList | None)
    ] = Field(default=None, description="A string, or up to 4, at which the text ends. It is not part of the answer.")
    stop_token_ids: list[TokenId] | None = Field(
        default=None, max_length=64, description="Token ids at which the text ends."
    )
    include_stop_str_in_output: bool = Field(default=False, description="Keep the stop string at the end of the text.")
    skip_special_tokens: bool = Field(default=True, description="Leave the text of special tokens out of the answer.")
    ignore_eos: bool = Field(default=False, description="Go on to max_tokens even if the model ends its text before.")
    logprobs: int | None = Field(
        default=None,
        ge=0,
        le=MAX_LOGPROBS,
        description="Report each token's log probability, and those of this many of the most likely alternatives.",
    )


class SettledParams(SamplingParams):
    """Sampling parameters for an engine: each that a request may leave out has a value, here the documented default."""

    max_tokens: int = DEFAULT_MAX_TOKENS
    temperature: float = DEFAULT_TEMPERATURE
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def of(cls, params: SamplingParams, max_tokens: int, defaults: Mapping[str, float] | None = None) -> Self:
        """Return a request's parameters; those that are None take the value of `defaults`, if that has one."""
        chosen = {name: value for name, value in params if value is not None}
        return cls.model_construct(**{**(defaults or {}), **chosen, "max_tokens": max_tokens})


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A text to continue. The tokenizer adds its special tokens (a BOS token, for example) unless told not to."""

    text: str
    add_special_tokens: bool = True


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids to continue, taken as they are."""

    token_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, rendered by the model's own chat template.

    `messages` are plain dicts with a role and content, as `apply_chat_template` takes them; the arguments of tool
    calls are objects in them, not JSON strings. `tools` are JSON schemas of functions, in OpenAI's form.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    tool_choice: Literal["none", "auto", "required"] = "auto"
    """`required` makes the model call at least one tool; `none` hides the tools from it."""
    named_tool: str | None = None
    """Makes the model call this tool, whatever `tool_choice` says."""
    parallel_tool_calls: bool = True
    """Whether one answer may hold several tool calls."""
    leave_room: int | None = None
    """Leaves out the oldest messages until the context has room for an answer of this many tokens, or is half empty.

    Without it, a conversation that is too long is refused."""


Prompt = TextPrompt | TokenPrompt | ChatPrompt


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the text must match. Equal grammars compile once.

    `source` is a JSON schema as text, a regular expression, a JSON list of choices, or a Lark grammar. The kind
    `tools` is a Lark grammar too; the engine makes it from the tools of a `ChatPrompt`.
    """

    kind: Literal["json_schema", "regex", "choice", "lark", "tools"]
    source: str
    param: str | None = field(default=None, compare=False)
    """The request's field that it comes from, for errors."""


_sequence_ids = itertools.count(1)


def next_sequence_id() -> SequenceId:
    """A number that no other sequence of this process has."""
    return next(_sequence_ids)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One sequence to generate.

    A request has its `sequence_id` from the start, so no event can arrive for a number that its receiver does not
    know yet.
    """

    prompt: Prompt
    params: SamplingParams = field(default_factory=SamplingParams)
    grammar: Grammar | None = None
    index: int = 0
    """Its place among the choices of one HTTP request; every event repeats it."""
    echo: bool = False
    """Emit a `PromptEcho` before the first token."""
    prompt_logprobs: bool = False
    """Compute the log probability of every prompt token for the `PromptEcho`; the prefix cache is not used."""
    parse_response: bool = False
    """Split the text into content, reasoning and tool calls (`Token.parts`), as the model's response format says."""
    clamp_max_tokens: bool = False
    """Shorten `max_tokens` to what is left of the context, where `POST /generate` refuses."""
    fill_context: bool = False
    """Without `max_tokens`, use all that is left of the context instead of `DEFAULT_MAX_TOKENS`."""
    default_temperature: float = DEFAULT_TEMPERATURE
    """Where neither the request nor the model names a temperature."""
    sequence_id: SequenceId = field(default_factory=next_sequence_id)

    def max_tokens(self, prompt_tokens: int, context: int) -> int:
        """Return how many tokens may be generated after a prompt of this length. Raises PromptTooLong."""
        room, wanted = context - prompt_tokens, self.params.max_tokens
        if room < 1 or (wanted is not None and wanted > room and not self.clamp_max_tokens):
            raise PromptTooLong(prompt_tokens, wanted or 1, context)
        if wanted is None:
            wanted = room if self.fill_context else DEFAULT_MAX_TOKENS
        return min(wanted, room)


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A request with its prompt as token ids: known to fit the context, ready to submit."""

    request: GenerationRequest
    prompt_ids: Sequence[int]
    params: SettledParams
    grammar: Any = None
    """The compiled grammar, if there is one; opaque outside the engine."""
    reader: Any = None
    """What reads the answer's parts, if the request wants them; opaque outside the engine."""

    @property
    def sequence_id(self) -> SequenceId:
        return self.request.sequence_id


def text_request(prompt: str, **settings: Any) -> GenerationRequest:
    """A request to continue a text; `settings` are the fields of `SamplingParams`.

    Raises:
        ValueError: a setting is out of range, or the prompt is empty or no Unicode text.
    """
    if not prompt:
        raise UnusablePrompt("Expected a prompt of at least one character, got an empty one.", "prompt")
    if not prompt.isprintable() and any("\ud800" <= character <= "\udfff" for character in prompt):
        raise UnusablePrompt("Expected a prompt that is Unicode text, got one with half of a surrogate pair.", "prompt")
    return GenerationRequest(TextPrompt(prompt), SamplingParams(**settings))

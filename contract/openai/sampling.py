"""The fields that all OpenAI endpoints share: sampling, the number of choices, streaming, the answer's grammar."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from contract.bodies import LenientBody, refuse, show_that_null_is_absent
from contract.grammars import JSON_OBJECT, StructuredOutputs, schema_grammar
from contract.openai.stream import UsageOptions
from contract.refusals import Refusal
from contract.requests import shortened
from interface.requests import (
    MAX_INTEGER,
    MOST_STOP_STRINGS,
    SMALLEST_TOP_P,
    GenerationRequest,
    Grammar,
    Prompt,
    SamplingParams,
    StopString,
    stop_as_list,
)

TOKEN_ID = re.compile(r"[0-9]{1,19}")
"""No longer than `MAX_INTEGER`: Python makes no number of some thousand digits."""
DEFAULT_TEMPERATURE = 1.0
MOST_CHOICES = 128
USE_STRUCTURED_OUTPUTS = refuse("this field is out of use; use structured_outputs or response_format")


def _top_k(value: Any) -> Any:
    return 0 if value == -1 else value


def _numbered(bias: Any) -> Any:
    """JSON's keys are strings; those that are numbers become token ids."""
    if not isinstance(bias, dict):
        return bias
    if wrong := [key for key in bias if not TOKEN_ID.fullmatch(key)]:
        raise ValueError(f"expected token ids as keys, got {str(shortened(wrong[0]))!r}")
    return {int(key): value for key, value in bias.items()}


class StreamOptions(LenientBody):
    """What a stream has in addition to the answer."""

    include_usage: bool = Field(default=False, description="Count the tokens in a last chunk that has no choices.")
    continuous_usage_stats: bool = Field(
        default=False, description="With include_usage: count the tokens so far in every other chunk, too."
    )


class JsonSchemaFormat(LenientBody):
    """A JSON schema and its name."""

    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(LenientBody):
    """The form of the answer. llama.cpp's clients put the schema next to the type."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")

    def as_grammar(self) -> Grammar | None:
        """Raises Refusal."""
        schema = self.schema_ if self.json_schema is None else self.json_schema.schema_
        return format_grammar(self.type, schema, "response_format.json_schema.schema")


def format_grammar(type: str, schema: dict[str, Any] | None, param: str) -> Grammar | None:
    """The grammar of a response format; `param` is the place of its schema in the body. Raises Refusal."""
    if type == "text":
        return None
    if schema is not None:
        return schema_grammar(schema, param)
    if type == "json_object":
        return JSON_OBJECT
    raise Refusal(400, f"{param}: Expected a JSON schema, got none.", param=param)


class SamplingFields(LenientBody, SamplingParams):
    """How to sample, how many choices to make, and whether to stream them."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        json_schema_extra=show_that_null_is_absent,
    )

    model: str | None = Field(default=None, description="One of the names of GET /v1/models; the default is the first.")
    n: int = Field(default=1, ge=1, le=MOST_CHOICES, description="How many choices to make of each prompt.")
    stream: bool = Field(default=False, description="Send the answer as it is made, as server-sent events.")
    stream_options: StreamOptions | None = None
    top_p: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Sample from the smallest set of tokens whose probabilities add up to this; 0 takes the most "
        "likely one. The default is the model's own, or else 1, which is off.",
    )
    top_k: Annotated[int | None, BeforeValidator(_top_k), Field(ge=0, le=MAX_INTEGER)] = Field(
        default=None, description="Sample from this many of the most likely tokens. 0 and -1 are off."
    )
    stop: Annotated[
        Annotated[list[StopString], Field(max_length=MOST_STOP_STRINGS)] | None,
        BeforeValidator(stop_as_list, json_schema_input_type=StopString | list[StopString] | None),
    ] = Field(
        default=None,
        description=f"A string, or up to {MOST_STOP_STRINGS}, at which the text ends. It is not part of the answer.",
    )
    logit_bias: Annotated[
        dict[Annotated[int, Field(ge=0, le=MAX_INTEGER)], Annotated[float, Field(ge=-100, le=100)]] | None,
        BeforeValidator(_numbered, json_schema_input_type=dict[str, float] | None),
    ] = Field(default=None, description="Added to the logits of these token ids. -100 bans a token, 100 forces it.")
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Annotated[None, USE_STRUCTURED_OUTPUTS] = None
    guided_regex: Annotated[None, USE_STRUCTURED_OUTPUTS] = None
    guided_choice: Annotated[None, USE_STRUCTURED_OUTPUTS] = None
    guided_grammar: Annotated[None, USE_STRUCTURED_OUTPUTS] = None
    grammar_: Annotated[None, USE_STRUCTURED_OUTPUTS] = Field(default=None, alias="grammar")
    bad_words: Annotated[None, refuse("this server bans tokens, not words; use logit_bias", [])] = None
    allowed_token_ids: Annotated[None, refuse("use structured_outputs, or logit_bias", [])] = None
    use_beam_search: Annotated[None, refuse("this server samples, and searches no beams", False)] = None
    truncate_prompt_tokens: Annotated[None, refuse("this server cuts no prompts; shorten it")] = None
    moderation: Annotated[None, refuse("this server moderates nothing")] = None
    prompt_logprobs: Annotated[None, refuse("use echo and logprobs of /v1/completions")] = None

    @property
    def usage_options(self) -> UsageOptions:
        options = self.stream_options or StreamOptions()
        return UsageOptions(options.include_usage, options.include_usage and options.continuous_usage_stats)

    def params(self, **changes: Any) -> SamplingParams:
        """The sampling parameters alone; `changes` replace some of them."""
        fields = {name: getattr(self, name) for name in SamplingParams.model_fields}
        if self.top_p == 0:
            fields["top_p"] = SMALLEST_TOP_P
        return SamplingParams.model_construct(**fields | changes)

    def grammar(self) -> Grammar | None:
        """The grammar of the answer, if the request has one. Raises Refusal."""
        wanted = None if self.response_format is None else self.response_format.as_grammar()
        if self.structured_outputs is None:
            return wanted
        if wanted is not None:
            message = "structured_outputs: Expected only one of response_format and structured_outputs, got both."
            raise Refusal(400, message, param="structured_outputs")
        return self.structured_outputs.as_grammar()

    def check_stream_options(self) -> None:
        """Raises Refusal."""
        if self.stream_options is not None and not self.stream:
            raise Refusal(400, "stream_options: Expected stream: true with it.", param="stream_options")

    def requests(self, prompts: Iterable[Prompt], params: SamplingParams, **settings: Any) -> list[GenerationRequest]:
        """`n` sequences for each prompt. The choices of one prompt differ in their seeds, if one is given."""
        return [
            GenerationRequest(
                prompt,
                params if params.seed is None else params.model_copy(update={"seed": _next(params.seed, choice)}),
                index=number * self.n + choice,
                clamp_max_tokens=True,
                default_temperature=DEFAULT_TEMPERATURE,
                **settings,
            )
            for number, prompt in enumerate(prompts)
            for choice in range(self.n)
        ]


def _next(seed: int, choice: int) -> int:
    """The seed of a choice; after the largest integer comes the smallest."""
    return (seed + choice + 2**63) % 2**64 - 2**63

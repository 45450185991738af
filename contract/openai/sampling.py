"""The fields that all OpenAI endpoints share: sampling, the number of choices, streaming, the answer's grammar."""

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

from contract.bodies import LenientBody, refuse, show_that_null_is_absent
from contract.openai.grammar_fields import GrammarFields
from contract.openai.other_samplers import OtherSamplers
from contract.openai.stream import UsageOptions
from contract.refusals import Refusal
from contract.requests import shortened
from interface.requests import (
    MAX_INTEGER,
    MOST_STOP_STRINGS,
    SMALLEST_TOP_P,
    GenerationRequest,
    Prompt,
    SamplingParams,
    StopString,
    stop_as_list,
)

TOKEN_ID = re.compile(r"[0-9]{1,19}")
"""No longer than `MAX_INTEGER`: Python refuses to parse thousands of digits."""
DEFAULT_TEMPERATURE = 1.0
MOST_CHOICES = 128


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


class PromptCacheOptions(LenientBody):
    """How a prompt is cached: here always, by its beginning, for as long as there is room."""

    prewarm: Annotated[None, refuse("this server caches what it generates for; ask for one token", False)] = None


class SamplingFields(OtherSamplers, GrammarFields, SamplingParams):
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
    repeat_penalty: float | None = Field(
        default=None, ge=0.01, le=100, description="llama.cpp's name for repetition_penalty."
    )
    logit_bias: Annotated[
        dict[Annotated[int, Field(ge=0, le=MAX_INTEGER)], Annotated[float, Field(ge=-100, le=100)]] | None,
        BeforeValidator(_numbered, json_schema_input_type=dict[str, float] | None),
    ] = Field(default=None, description="Added to the logits of these token ids. -100 bans a token, 100 forces it.")
    bad_words: Annotated[None, refuse("this server bans tokens, not words; use logit_bias", [])] = None
    allowed_token_ids: Annotated[None, refuse("use structured_outputs, or logit_bias", [])] = None
    logits_processors: Annotated[None, refuse("a request cannot bring code", [])] = None
    sequence_bias: Annotated[None, refuse("this server biases single tokens; use logit_bias", [])] = None
    use_beam_search: Annotated[None, refuse("this server samples, and searches no beams", False)] = None
    truncate_prompt_tokens: Annotated[None, refuse("this server cuts no prompts; shorten it")] = None
    audio: Annotated[None, refuse("this model makes text only")] = None
    modalities: Annotated[None, refuse("this model makes text only", ["text"], [])] = None
    prompt_cache_options: PromptCacheOptions | None = None
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
        if self.repetition_penalty is None:
            fields["repetition_penalty"] = self.repeat_penalty
        return SamplingParams.model_construct(**fields | changes)

    def check_stream_options(self) -> None:
        """Raises Refusal."""
        if self.stream_options is not None and not self.stream:
            raise Refusal(400, "stream_options: Expected stream: true with it.", param="stream_options")

    def requests(self, prompts: Iterable[Prompt], params: SamplingParams, **settings: Any) -> list[GenerationRequest]:
        """`n` sequences for each prompt. The choices of one prompt differ in their seeds, if one is given."""
        return [
            GenerationRequest(
                prompt,
                params if params.seed is None else params.model_copy(update={"seed": _seed_of(params.seed, choice)}),
                index=number * self.n + choice,
                clamp_max_tokens=True,
                default_temperature=DEFAULT_TEMPERATURE,
                **settings,
            )
            for number, prompt in enumerate(prompts)
            for choice in range(self.n)
        ]


def _seed_of(seed: int, choice: int) -> int:
    """The seed of a choice; after the largest integer comes the smallest."""
    return (seed + choice + 2**63) % 2**64 - 2**63

"""`POST /v1/completions`: continue texts or token ids, whole or as a stream."""

import uuid
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from contract.bodies import check_model, read_body, refuse
from contract.endpoints import CALL_REFUSALS, MODEL_REFUSALS, Endpoint, Incoming
from contract.openai.dialect import OpenAIDialect, OpenAIError
from contract.openai.sampling import SamplingFields
from contract.openai.stream import AssembledCall, Head
from contract.openai.text_answer import TextAssembly, TextCompletion, TextPiece
from contract.refusals import Refusal
from interface.requests import MAX_INTEGER, Prompt, TextPrompt, TokenPrompt

DEFAULT_MAX_TOKENS = 16
MOST_SEQUENCES = 4096
"""The most choices of all prompts together. Whether the engine has room for them is known once all have been made."""
DIALECT = OpenAIDialect()
REFUSALS = CALL_REFUSALS | MODEL_REFUSALS


def _prompts_of(value: Any) -> Any:
    """A prompt, or a list of prompts, as a list; each is a text or a list of token ids."""
    prompts = value if isinstance(value, list) and not _is_token_ids(value) else [value]
    if not all(isinstance(prompt, str) or _is_token_ids(prompt) for prompt in prompts) or not prompts:
        raise ValueError("Expected a text, a list of token ids, or a list of either, none of them empty")
    return prompts


def _is_token_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(token_id) is int and 0 <= token_id <= MAX_INTEGER for token_id in value)  # a bool is not a token
    )


class CompletionBody(SamplingFields):
    """What to continue, and how to answer."""

    prompt: Annotated[
        list[Any], BeforeValidator(_prompts_of, json_schema_input_type=str | list[str] | list[int] | list[list[int]])
    ] = Field(description="A text or a list of token ids, or a list of either.")
    max_tokens: int | None = Field(
        default=None, ge=0, le=MAX_INTEGER, description="Stop after this many tokens. The default is 16."
    )
    max_completion_tokens: int | None = Field(
        default=None, ge=0, le=MAX_INTEGER, description="Chat completions' name for max_tokens."
    )
    echo: bool = Field(default=False, description="Begin the text with the prompt.")
    add_special_tokens: bool = Field(default=True, description="Let the tokenizer add its special tokens to a text.")
    return_token_ids: bool = Field(default=False, description="Give the token ids, too.")
    best_of: int | None = Field(default=None, description="Nothing but `n`.")
    max_output_tokens: Annotated[None, refuse("it is a field of /v1/responses; use max_tokens")] = None
    messages: Annotated[None, refuse("a text has no messages; use /v1/chat/completions")] = None
    tools: Annotated[None, refuse("a text has no tools; use /v1/chat/completions", [])] = None
    prompt_embeds: Annotated[None, refuse("this server takes texts and token ids only")] = None
    suffix: Annotated[None, refuse("this model cannot fill in the middle", "")] = None

    @property
    def chosen_max_tokens(self) -> int:
        given = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return DEFAULT_MAX_TOKENS if given is None else given

    def prompts(self) -> list[Prompt]:
        return [
            TextPrompt(prompt, self.add_special_tokens) if isinstance(prompt, str) else TokenPrompt(prompt)
            for prompt in self.prompt
        ]

    def check(self) -> None:
        """Raises Refusal."""
        self.check_stream_options()
        if self.chosen_max_tokens == 0 and not self.echo:
            name = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
            raise Refusal(400, f"{name}: Expected at least 1 without echo, got 0.", param=name)
        if (sequences := len(self.prompt) * self.n) > MOST_SEQUENCES:
            message = f"n: Expected at most {MOST_SEQUENCES} choices of all prompts together, got {sequences}."
            raise Refusal(400, message, param="n")
        if self.best_of not in (None, self.n):
            raise Refusal(400, f"best_of: Expected n, which is {self.n}, got {self.best_of}.", param="best_of")


def parse(incoming: Incoming) -> AssembledCall[TextPiece]:
    """Raises Refusal."""
    body = read_body(CompletionBody, incoming.body)
    model = check_model(body.model, incoming.models)
    body.check()
    requests = body.requests(
        body.prompts(),
        body.params(max_tokens=max(1, body.chosen_max_tokens)),  # with 0, the one token that is made is not shown
        grammar=body.grammar(),
        echo=body.echo or body.return_token_ids,
        prompt_logprobs=body.echo and body.logprobs is not None,
    )
    assembly = partial(_assembly, body, model, incoming.fingerprint)
    return AssembledCall(requests, body.stream, assembly, DIALECT, body.n, body.usage_options)


def _assembly(body: CompletionBody, model: str, fingerprint: str | None) -> TextAssembly:
    return TextAssembly(
        Head(f"cmpl-{uuid.uuid4().hex}", model, fingerprint),
        shows_prompt=body.echo,
        shows_tokens=body.chosen_max_tokens != 0,
        shows_logprobs=body.logprobs is not None,
        shows_token_ids=body.return_token_ids,
    )


ENDPOINT = Endpoint(
    path="/v1/completions",
    parse=parse,
    summary="Continue texts or token ids (OpenAI's API)",
    request=CompletionBody,
    answer=TextCompletion,
    stream=(TextCompletion, OpenAIError),
    stream_description=(
        "With `stream: true`: server-sent events. One `data:` line of JSON for each piece of a choice; if "
        "`stream_options.include_usage` is set, one without choices; then `data: [DONE]`."
    ),
    stream_example=(
        'data: {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [{"index": 0, '
        '"text": " 4", "logprobs": null, "finish_reason": null}]}\n\n'
        'data: {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [{"index": 0, '
        '"text": "", "logprobs": null, "finish_reason": "stop"}]}\n\n'
        "data: [DONE]\n\n"
    ),
    example={"prompt": "What is 2 + 2?", "max_tokens": 20},
    refusals=REFUSALS,
    error=OpenAIError,
)

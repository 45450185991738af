"""`/tokenize`, `/detokenize` and `/tokenizer_info`: the tokenizer over HTTP, in the shape that vLLM gave them.

Evaluation harnesses use them, and then need no tokenizer of their own.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from contract.answers import Answer
from contract.bodies import LenientBody, check_model, read_body
from contract.conversation import checked_prompt
from contract.endpoints import BODY_REFUSALS, MODEL_REFUSALS, QUESTION_REFUSALS, Endpoint, Incoming, Question
from contract.openai.chat_request import ChatMessage, OfferedTool, as_messages, ends_with_a_prefix
from contract.openai.dialect import OpenAIError
from contract.refusals import Refusal
from interface.engine import Lexicon
from interface.requests import ChatPrompt, Prompt, TextPrompt

REFUSALS = BODY_REFUSALS | MODEL_REFUSALS | QUESTION_REFUSALS


class TokenizeBody(LenientBody):
    """A text or a conversation to tokenize."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    tools: list[OfferedTool] | None = None
    add_special_tokens: bool | None = Field(
        default=None, description="Add the tokens that the tokenizer puts around a text. The default is true for texts."
    )
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    return_token_strs: bool = False

    def to_prompt(self) -> Prompt:
        """Raises Refusal."""
        if (self.prompt is None) == (self.messages is None):
            raise Refusal(400, "Expected either prompt or messages", param="prompt")
        if self.prompt is not None:
            return TextPrompt(self.prompt, add_special_tokens=self.add_special_tokens is not False)
        assert self.messages is not None
        continues = self.continue_final_message or ends_with_a_prefix(self.messages)
        return checked_prompt(
            ChatPrompt(
                as_messages(self.messages),
                [tool.as_dict(f"tools.{number}") for number, tool in enumerate(self.tools or ())],
                template_arguments=self.chat_template_kwargs,
                add_generation_prompt=self.add_generation_prompt and not continues,
                continue_final_message=continues,
                add_special_tokens=bool(self.add_special_tokens),
            )
        )


class TokenizeAnswer(BaseModel):
    """A prompt's tokens."""

    model_config = ConfigDict(extra="forbid")

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeBody(LenientBody):
    """Token ids whose text is wanted."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


class DetokenizeAnswer(BaseModel):
    """The text of token ids, special tokens included."""

    model_config = ConfigDict(extra="forbid")

    prompt: str


class TokenizerInfo(BaseModel):
    """The public part of the tokenizer's configuration."""

    tokenizer_class: str
    bos_token: str | None = None
    eos_token: str | None = None
    pad_token: str | None = None
    unk_token: str | None = None
    chat_template: str | None = None


def parse_tokenize(incoming: Incoming) -> Question:
    """Raises Refusal."""
    body = read_body(TokenizeBody, incoming.body)
    check_model(body.model, incoming.models)
    prompt = body.to_prompt()

    def tokenize(lexicon: Lexicon) -> Answer:
        tokenized = lexicon.tokenize(prompt)
        return _answer(
            TokenizeAnswer(
                count=len(tokenized.token_ids),
                max_model_len=lexicon.info.context,
                tokens=list(tokenized.token_ids),
                token_strs=list(tokenized.tokens) if body.return_token_strs else None,
            )
        )

    return Question(tokenize)


def parse_detokenize(incoming: Incoming) -> Question:
    """Raises Refusal."""
    body = read_body(DetokenizeBody, incoming.body)
    check_model(body.model, incoming.models)
    return Question(lambda lexicon: _answer(DetokenizeAnswer(prompt=lexicon.detokenize(body.tokens))))


def parse_tokenizer_info(incoming: Incoming) -> Question:
    return Question(lambda lexicon: _answer(TokenizerInfo(**lexicon.info.tokenizer)))


def _answer(model: BaseModel) -> Answer:
    return Answer(200, model.model_dump_json().encode())


TOKENIZE = Endpoint(
    path="/tokenize",
    parse=parse_tokenize,
    summary="Turn a text or a conversation into tokens",
    request=TokenizeBody,
    answer=TokenizeAnswer,
    example={"prompt": "What is 2 + 2?"},
    refusals=REFUSALS,
    error=OpenAIError,
)
DETOKENIZE = Endpoint(
    path="/detokenize",
    parse=parse_detokenize,
    summary="Turn tokens into text",
    request=DetokenizeBody,
    answer=DetokenizeAnswer,
    example={"tokens": [300, 321]},
    refusals=REFUSALS,
    error=OpenAIError,
)
TOKENIZER_INFO = Endpoint(
    path="/tokenizer_info",
    parse=parse_tokenizer_info,
    summary="What the tokenizer is",
    method="GET",
    answer=TokenizerInfo,
    refusals=QUESTION_REFUSALS,
    error=OpenAIError,
)

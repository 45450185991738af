"""The table of endpoints, from which the doors and the OpenAPI document are made, and the dialect of each path."""

from contract.anthropic.dialect import DIALECT as ANTHROPIC
from contract.anthropic.messages import COUNT_TOKENS, MESSAGES
from contract.endpoints import Endpoint
from contract.generate import ENDPOINT as GENERATE
from contract.openai import chat, chats_by_id, compact, completions, conversations, models, responses, responses_by_id
from contract.openai.dialect import OpenAIDialect
from contract.plain import DIALECT as PLAIN
from contract.refusals import DIALECTS
from contract.tokens import DETOKENIZE, TOKENIZE, TOKENIZER_INFO

ENDPOINTS: tuple[Endpoint, ...] = (
    GENERATE,
    models.LIST,
    models.ONE,
    completions.ENDPOINT,
    chat.ENDPOINT,
    chats_by_id.LIST,
    chats_by_id.RETRIEVE,
    chats_by_id.UPDATE,
    chats_by_id.DELETE,
    chats_by_id.MESSAGES,
    responses.RESPONSES,
    responses.INPUT_TOKENS,
    compact.ENDPOINT,
    responses_by_id.RETRIEVE,
    responses_by_id.DELETE,
    responses_by_id.INPUT_ITEMS,
    responses_by_id.CANCEL,
    *conversations.ENDPOINTS,
    MESSAGES,
    COUNT_TOKENS,
    TOKENIZE,
    DETOKENIZE,
    TOKENIZER_INFO,
)
"""Every endpoint that generates or looks something up."""

DIALECTS.by_prefix |= {
    "": PLAIN,
    "/v1": completions.DIALECT,
    "/v1/chat/completions": chat.DIALECT,
    "/v1/responses": responses.DIALECT,
    "/v1/messages": ANTHROPIC,
    "/tokenize": OpenAIDialect(),
    "/detokenize": OpenAIDialect(),
    "/tokenizer_info": OpenAIDialect(),
}
DIALECTS.anthropic = ANTHROPIC

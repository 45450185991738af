"""`POST /v1/chat/completions`: answer a conversation, whole or as a stream."""

import json
import uuid
from collections.abc import Callable
from functools import partial

from contract.bodies import check_model, read_body
from contract.endpoints import Endpoint, Incoming
from contract.openai.chat_answer import ChatAssembly, ChatCompletion, ChatCompletionChunk, ChunkChoice
from contract.openai.chat_request import ChatBody
from contract.openai.completions import REFUSALS
from contract.openai.dialect import OpenAIDialect, OpenAIError
from contract.openai.stored_chats import StoredChats
from contract.openai.stream import AssembledCall, Head

DIALECT = OpenAIDialect(prompt_field="messages")


def parse(incoming: Incoming) -> AssembledCall[ChunkChoice]:
    """Raises Refusal."""
    body = read_body(ChatBody, incoming.body)
    model = check_model(body.model, incoming.models)
    body.check()
    grammar = None if body.chosen.forces_a_call else body.grammar()  # a forced call has a grammar of its own
    requests = body.requests(
        [body.conversation()],
        body.params(
            max_tokens=body.chosen_max_tokens,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        ),
        grammar=grammar,
        parse_response=bool(body.offered) or (grammar is None and body.separates_reasoning),
        fill_context=True,
    )
    assembly = partial(_assembly, body, model, incoming.fingerprint)
    store = _store(body, incoming) if body.store else None
    return AssembledCall(requests, body.stream, assembly, DIALECT, body.n, body.usage_options, store)


def _store(body: ChatBody, incoming: Incoming) -> Callable[[ChatCompletion], None]:
    """What stores the completion, once it is whole. Raises Refusal."""
    metadata, messages = body.stored_metadata, json.loads(incoming.body)["messages"]
    return lambda completion: StoredChats(incoming.kept).store(completion, metadata, messages)


def _assembly(body: ChatBody, model: str, fingerprint: str | None) -> ChatAssembly:
    return ChatAssembly(
        Head(f"chatcmpl-{uuid.uuid4().hex}", model, fingerprint),
        body.n,
        prefix=body.prefix(),
        shows_reasoning=body.shows_reasoning,
        shows_logprobs=body.logprobs,
        shows_token_ids=body.return_token_ids,
        parallel_tool_calls=not body.takes_one_call,
        calls_functions=bool(body.functions),
        may_call=bool(body.tools or body.functions),
        custom_tools=body.custom_tools,
    )


ENDPOINT = Endpoint(
    path="/v1/chat/completions",
    parse=parse,
    summary="Answer a conversation (OpenAI's API)",
    request=ChatBody,
    answer=ChatCompletion,
    stream=(ChatCompletionChunk, OpenAIError),
    stream_description=(
        "With `stream: true`: server-sent events. One `data:` line of JSON with the role for each choice, then one "
        "for each piece of a message; if `stream_options.include_usage` is set, one without choices; then "
        "`data: [DONE]`. An error in place of a chunk ends the stream."
    ),
    stream_example=(
        'data: {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": '
        '[{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null}]}\n\n'
        'data: {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": '
        '[{"index": 0, "delta": {"content": "4"}, "logprobs": null, "finish_reason": null}]}\n\n'
        'data: {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": '
        '[{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"}]}\n\n'
        "data: [DONE]\n\n"
    ),
    example={"messages": [{"role": "user", "content": "What is 2 + 2?"}], "stream": True},
    refusals=REFUSALS,
    error=OpenAIError,
)

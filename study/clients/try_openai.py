"""openai-python."""

import openai

from study.clients.checks import ADDRESS, MODEL, QUESTION, V1, check, expect, expect_json

client = openai.OpenAI(base_url=V1, api_key="any", max_retries=0)
messages: list = [{"role": "user", "content": QUESTION}]
TOOL: dict = {"type": "function", "function": {"name": "move", "description": "Moves.", "parameters": ADDRESS}}


def chat() -> str:
    answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    expect(bool(answer.choices[0].message.content), "a text")
    expect(answer.usage is not None and answer.usage.total_tokens > 0, "usage")
    return answer.choices[0].message.content or ""


def stream() -> str:
    whole = chat()
    options: dict = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=messages, temperature=0, stream=True, stream_options=options
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    expect(text == whole, f"the whole answer's text, got {text!r}")
    expect(chunks[-1].usage is not None, "usage in the last chunk")
    return f"{len(chunks)} chunks"


def structured() -> str:
    schema: dict = {"type": "json_schema", "json_schema": {"name": "address", "schema": ADDRESS, "strict": True}}
    answer = client.chat.completions.create(model=MODEL, messages=messages, response_format=schema, temperature=0)
    return str(expect_json(answer.choices[0].message.content or ""))


def tools() -> str:
    choice: dict = {"type": "function", "function": {"name": "move"}}
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL], tool_choice=choice)
    (call,) = answer.choices[0].message.tool_calls or []
    expect_json(call.function.arguments)
    turns = [*messages, answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    second = client.chat.completions.create(model=MODEL, messages=turns, tools=[TOOL], tool_choice="none")
    return f"{call.function.name}, then {second.choices[0].finish_reason}"


def responses() -> str:
    answer = client.responses.create(model=MODEL, input=QUESTION, temperature=0)
    expect(bool(answer.output_text), "a text")
    second = client.responses.create(
        model=MODEL, input="And then?", previous_response_id=answer.id, max_output_tokens=9
    )
    expect(bool(second.output_text), "a text of the second turn")
    return answer.output_text


def stored() -> str:
    stored = client.chat.completions
    answer = stored.create(model=MODEL, messages=messages, max_completion_tokens=9, store=True, metadata={"topic": "a"})
    listed = [completion.id for completion in stored.list(metadata={"topic": "a"})]
    expect(answer.id in listed, f"the completion in the list, got {listed}")
    expect(stored.retrieve(answer.id).choices == answer.choices, "the same choices")
    (message,) = stored.messages.list(answer.id)
    expect(message.content == QUESTION, f"the question, got {message}")
    return str(stored.delete(answer.id).deleted)


def conversation() -> str:
    kept = client.conversations.create()
    for text in (QUESTION, "And then?"):
        client.responses.create(model=MODEL, input=text, conversation=kept.id, max_output_tokens=9)
    items = [item.type for item in client.conversations.items.list(kept.id)]
    expect(items == ["message"] * 4, f"four messages, got {items}")
    return str(client.conversations.delete(kept.id).deleted)


def background() -> str:
    answer = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=9, background=True)
    while answer.status in ("queued", "in_progress"):
        answer = client.responses.retrieve(answer.id)
    expect(bool(answer.output_text), "a text")
    return str(answer.status)


def background_stream() -> str:
    asked = client.responses.create(model=MODEL, input=QUESTION, temperature=0, background=True, stream=True)
    first = next(iter(asked))
    expect(first.type == "response.created", f"response.created first, got {first.type}")
    asked.close()
    with client.responses.stream(response_id=first.response.id) as again:
        text = again.get_final_response().output_text
    late = list(client.responses.retrieve(first.response.id, stream=True, starting_after=2))
    expect(late[0].sequence_number == 3, f"event 3 first, got {late[0].sequence_number}")
    expect(text == late[-1].response.output_text == responses(), "the same text")
    return text


def cancelled() -> str:
    answer = client.responses.create(model=MODEL, input=QUESTION, extra_body={"ignore_eos": True}, background=True)
    status = client.responses.cancel(answer.id).status
    expect(client.responses.retrieve(answer.id).status == status == "cancelled", f"cancelled, got {status}")
    return str(status)


def completions() -> str:
    answer = client.completions.create(model=MODEL, prompt=["Once", "Twice"], max_tokens=4, logprobs=2, n=2)
    expect(len(answer.choices) == 4, "four choices")
    expect(answer.choices[0].logprobs is not None, "log probabilities")
    return f"{len(answer.choices)} choices"


def errors() -> str:
    try:
        client.chat.completions.create(model="no-such-model", messages=messages)
    except openai.NotFoundError as error:
        return str(error)
    raise AssertionError("expected NotFoundError")


check("models", lambda: [model.id for model in client.models.list()])
check("chat", chat)
check("stream equals whole", stream)
check("json_schema", structured)
check("named tool, then its result", tools)
check("responses", responses)
check("stored chat completions", stored)
check("a conversation", conversation)
check("a response in the background", background)
check("its stream, taken up again", background_stream)
check("its cancellation", cancelled)
check("completions: prompts, n, logprobs", completions)
check("an unknown model is NotFoundError", errors)

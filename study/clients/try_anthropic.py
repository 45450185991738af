"""anthropic-python."""

import anthropic

from study.clients.checks import ADDRESS, BASE, MODEL, QUESTION, check, expect

client = anthropic.Anthropic(base_url=BASE, api_key="any", max_retries=0)
messages: list = [{"role": "user", "content": QUESTION}]
TOOL: dict = {"name": "move", "description": "Moves.", "input_schema": ADDRESS}


def whole() -> str:
    message = client.messages.create(model=MODEL, max_tokens=60, messages=messages)
    expect(message.content[0].type == "text", "a text block")
    return str(message.stop_reason)


def stream() -> str:
    with client.messages.stream(model=MODEL, max_tokens=60, messages=messages) as events:
        pieces = list(events.text_stream)
        final = events.get_final_message()
    expect(final.content[0].type == "text" and final.content[0].text == "".join(pieces), "the same text")
    return f"{len(pieces)} pieces"


def tools() -> str:
    choice: dict = {"type": "tool", "name": "move"}
    first = client.messages.create(model=MODEL, max_tokens=200, messages=messages, tools=[TOOL], tool_choice=choice)
    call = first.content[-1]
    expect(call.type == "tool_use" and set(call.input) == {"street", "number"}, f"a call, got {call}")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "done"}
    turns: list = [*messages, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = client.messages.create(
        model=MODEL, max_tokens=20, messages=turns, tools=[TOOL], tool_choice={"type": "none"}
    )
    return f"{first.stop_reason}, then {second.stop_reason}"


def models() -> str:
    (model,) = client.models.list(limit=1)
    expect(client.models.retrieve(model.id) == model, "the same model")
    try:
        client.models.retrieve("no-such-model")
    except anthropic.NotFoundError as error:
        expect(error.type == "not_found_error", f"not_found_error, got {error.type}")
        return str(error)
    raise AssertionError("expected NotFoundError")


check("models, and an unknown one is NotFoundError", models)
check("messages", whole)
check("stream equals its final message", stream)
check("named tool, then its result", tools)
check("count_tokens", lambda: client.messages.count_tokens(model=MODEL, messages=messages).input_tokens)

"""The forms in which different chat templates expect the same conversation.

Templates differ in what they read, and some fail at what they do not, or leave it out: the content and the arguments of
calls, several calls in a message, the length of their ids, system messages, tools without a description.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Message = dict[str, Any]

FIRST_CALL = re.compile(r"tool_calls\s*\[\s*0\s*\]")
LOOP_OVER_CALLS = re.compile(r"for\s+\w+\s+in\s+[^%]*tool_calls")
LENGTH_OF_IDS = re.compile(r"\bid['\"\]]*\s*\|\s*length\s*!=\s*(\d+)")
INSTRUCTING = ("system", "developer")
RETURNING = ("tool", "function")
REASONING = ("reasoning_content", "reasoning", "thinking")


def reads_one_call(template: str) -> bool:
    """Whether a template reads only the first call of a message."""
    return FIRST_CALL.search(template) is not None and LOOP_OVER_CALLS.search(template) is None


def length_of_ids(template: str) -> int | None:
    """How long the ids of calls have to be for a template that counts: nine characters for Mistral's."""
    found = LENGTH_OF_IDS.search(template)
    return int(found[1]) if found else None


def forms(
    messages: list[Message], tools: list[dict[str, Any]] | None
) -> Iterator[tuple[list[Message], list[dict[str, Any]] | None]]:
    """The different forms in which templates expect the same conversation, the plainest first."""
    tried: list[Any] = []
    # Without tools, the second one is an empty list: some templates loop over them without asking.
    for offered in (tools, [_described(tool) for tool in tools or ()]):
        for arranged in ARRANGEMENTS:
            for form in _forms_of_messages(arranged(messages)):
                if (form, offered) not in tried:
                    tried.append((form, offered))
                    yield form, offered


def _forms_of_messages(messages: list[Message]) -> Iterator[list[Message]]:
    """Messages with calls as some templates need them: with a content that is a text, with arguments as JSON, or both.

    The first form has neither: there are templates that would write an empty content, or JSON within a string. The
    last has reasoning within the content: gpt-oss takes only one of the two.
    """
    yield messages
    if not any("tool_calls" in message for message in messages):
        return
    with_texts = [message | {"content": message["content"] or ""} for message in messages]
    yield with_texts
    yield [_with_json(message) for message in messages]
    yield [_with_json(message) for message in with_texts]
    yield [_with_reasoning_as_content(message) for message in messages]


def loses_instructions(messages: Sequence[Message], text: str) -> bool:
    """Whether a template has left out a system message: some read only the first one, or none."""
    contents = [message["content"] for message in messages if message["role"] in INSTRUCTING]
    return any(isinstance(content, str) and content.strip() not in text for content in contents)


def _with_joined_instructions(messages: Sequence[Message]) -> list[Message]:
    """The conversation with all its system messages as one, at the beginning."""
    instructions, others = _split_off_instructions(messages)
    return [_joined(instructions), *others] if instructions else list(messages)


def _with_instructions_of_the_user(messages: Sequence[Message]) -> list[Message]:
    """The conversation with its system messages as the beginning of the user's first one: some templates take none.

    Where the user says nothing, they become the user's message.
    """
    instructions, others = _split_off_instructions(messages)
    if not instructions:
        return list(messages)
    first = next((place for place, message in enumerate(others) if message["role"] == "user"), None)
    if first is None:
        return [_joined(instructions) | {"role": "user"}, *others]
    user = others[first] | {"content": _joined([*instructions, others[first]])["content"]}
    return [*others[:first], user, *others[first + 1 :]]


def _with_joined_turns(messages: Sequence[Message]) -> list[Message]:
    """The same, with what the user says in turn as one message: some templates expect that the roles alternate."""
    turns: list[Message] = []
    for message in _with_instructions_of_the_user(messages):
        if turns and turns[-1]["role"] == message["role"] == "user":
            turns[-1] = _joined([turns[-1], message])
        else:
            turns.append(message)
    return turns


def _with_joined_results(messages: Sequence[Message]) -> list[Message]:
    """The same, with the results of tools as the user's: some templates know two roles."""
    return _with_joined_turns(with_results_of_the_user(messages))


ARRANGEMENTS: Sequence[Callable[[list[Message]], list[Message]]] = (
    list,
    _with_joined_instructions,
    _with_instructions_of_the_user,
    _with_joined_turns,
    _with_joined_results,
)
"""What templates may need, the least change first."""


def _split_off_instructions(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    instructions = [message for message in messages if message["role"] in INSTRUCTING]
    return instructions, [message for message in messages if message["role"] not in INSTRUCTING]


def _joined(messages: Sequence[Message]) -> Message:
    """The first message with the content of all."""
    contents = [message["content"] for message in messages]
    if all(isinstance(content, str) for content in contents):
        return messages[0] | {"content": "\n\n".join(contents)}
    return messages[0] | {"content": [part for content in contents for part in content]}


def _with_reasoning_as_content(message: Message) -> Message:
    """A message with calls, and both reasoning and content, with all of it as content."""
    reasoning = next((message[name] for name in REASONING if message.get(name)), None)
    if "tool_calls" not in message or not message["content"] or not reasoning:
        return message
    plain = {name: value for name, value in message.items() if name not in REASONING}
    return plain | {"content": f"{reasoning}\n\n{message['content']}"}


def _described(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool in which everything has a description, be it empty: some templates read those without asking."""
    function = tool.get("function")
    if not isinstance(function, dict):
        return tool
    parameters = function.get("parameters")
    if isinstance(parameters, dict) and isinstance(properties := parameters.get("properties"), dict):
        described = {name: _with_description(schema) for name, schema in properties.items()}
        function = function | {"parameters": parameters | {"properties": described}}
    return tool | {"function": _with_description(function)}


def _with_description(value: Any) -> Any:
    return {"description": ""} | value if isinstance(value, dict) else value


def with_single_calls(messages: Sequence[Message]) -> list[Message]:
    """The conversation with at most one call in a message, followed by its result."""
    groups: list[list[Message]] = []
    group_of_call: dict[str, list[Message]] = {}
    for message in messages:
        group = group_of_call.get(message.get("tool_call_id") or "") if message["role"] == "tool" else None
        if group is not None:
            group.append(message)
            continue
        first, *more = message.get("tool_calls") or [None]
        groups.append([message if first is None else message | {"tool_calls": [first]}])
        groups += [[{"role": "assistant", "content": "", "tool_calls": [call]}] for call in more]
        for call, new_group in zip([first, *more], groups[-1 - len(more) :], strict=True):
            if call is not None and call.get("id"):
                group_of_call[call["id"]] = new_group
    return [message for group in groups for message in group]


def with_results_of_the_user(messages: Sequence[Message]) -> list[Message]:
    """The conversation with the results of tools as what the user says."""
    return [message | {"role": "user"} if message["role"] in RETURNING else message for message in messages]


def with_ids_of_length(length: int, messages: Sequence[Message]) -> list[Message]:
    """The conversation with ids of calls that have as many letters and digits. Each id becomes the same everywhere."""
    return [_with_ids(message, length) for message in messages]


def _with_ids(message: Message, length: int) -> Message:
    result = dict(message)
    if "tool_calls" in result:
        result["tool_calls"] = [call | {"id": _fitting_id(call.get("id"), length)} for call in result["tool_calls"]]
    if result["role"] in RETURNING:
        result["tool_call_id"] = _fitting_id(result.get("tool_call_id"), length)
    return result


def _fitting_id(call_id: object, length: int) -> str:
    text = str(call_id or "")
    if len(text) == length and text.isascii() and text.isalnum():
        return text
    return hashlib.shake_128(text.encode(errors="surrogatepass")).hexdigest(length)[:length]


def _with_json(message: Message) -> Message:
    """A message whose calls have their arguments as JSON text, as on the wire."""
    if "tool_calls" not in message:
        return message
    functions = [(call, call["function"]) for call in message["tool_calls"]]
    calls = [
        call | {"function": function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
        for call, function in functions
    ]
    return message | {"tool_calls": calls}

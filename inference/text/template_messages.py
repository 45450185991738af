"""Brings the messages of a request into the form that a chat template expects, one by one.

What only shows when a template fails is the business of `message_forms`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from inference.text.described_tools import described_tools
from inference.text.families import family_of
from inference.text.message_forms import (
    length_of_ids,
    reads_one_call,
    with_ids_of_length,
    with_results_of_the_user,
    with_single_calls,
)
from inference.text.shown_parts import ShownParts
from inference.text.tool_forms import HERMES, ToolForm
from interface.errors import RequestError, UnsupportedFeature

Message = dict[str, Any]

LOOP_OVER_PARTS = re.compile(r"for\s+\w+\s+in\s+\w*message\w*(\.content|\[\s*['\"]content['\"]\s*\])")
LONGEST_ARGUMENTS = 300
"""How many characters of arguments that are not JSON an error shows."""


def messages_for(messages: Sequence[Mapping[str, Any]], template: str, shown: ShownParts) -> list[Message]:
    """The conversation in the form that this template expects."""
    result = [_message(message, index, template, shown.calls) for index, message in enumerate(messages)]
    if (length := length_of_ids(template)) is not None:
        result = with_ids_of_length(length, result)
    if not shown.results:
        result = with_results_of_the_user(result)
    return with_single_calls(result) if reads_one_call(template) else result


def _message(message: Mapping[str, Any], index: int, template: str, shows_calls: bool = True) -> Message:
    """A message in the form that this template expects."""
    where = f"messages.{index}"
    role = message.get("role")
    if not isinstance(role, str):
        raise RequestError(f"Expected a message with a role, but got {role!r}.", f"{where}.role")
    result = {**message, "role": _role(role, template), "content": _content(message.get("content"), where, template)}
    if calls := result.pop("tool_calls", None):
        result["tool_calls"] = [_tool_call(call, f"{where}.tool_calls.{i}") for i, call in enumerate(calls)]
        if not shows_calls:
            result["content"] = _with_calls_as_text(result, template)
    elif result["content"] is None:
        result["content"] = ""
    return result


def _role(role: str, template: str) -> str:
    """The role's name in the template: `developer` is a newer name for `system`, `function` an older one for `tool`."""
    other_names = {"developer": "system", "function": "tool"}
    return other_names[role] if role in other_names and not mentions(template, role) else role


def _content(content: object, where: str, template: str) -> str | list[dict[str, str]] | None:
    """Content as one text, or as parts if that is all that the template can read."""
    if content is None:
        return None
    if isinstance(content, str):
        texts = [content]
    elif isinstance(content, Sequence):
        texts = [_text(part, f"{where}.content.{index}") for index, part in enumerate(content)]
    else:
        raise RequestError(f"Expected a text or a list of parts, but got {content!r}.", f"{where}.content")
    if LOOP_OVER_PARTS.search(template) and "is string" not in template:
        return [{"type": "text", "text": text} for text in texts]
    return "\n".join(texts)


def _text(part: object, where: str) -> str:
    if isinstance(part, Mapping):
        text = part.get("text", part.get("refusal"))
        if isinstance(text, str):
            return text
        raise UnsupportedFeature(f"Expected a text part, but got one of type {part.get('type')!r}.", where)
    if isinstance(part, str):
        return part
    raise RequestError(f"Expected a text part, but got {part!r}.", where)


def _tool_call(call: object, where: str) -> dict[str, Any]:
    """A tool call with its arguments as an object, which is what templates want; on the wire they are JSON text."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(f"Expected a tool call with a function's name, but got {call!r}.", where)
    assert isinstance(call, Mapping)
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise RequestError(
                f"Expected the arguments as a JSON object, but got {arguments[:LONGEST_ARGUMENTS]!r}.",
                f"{where}.function.arguments",
            ) from error
    if not isinstance(arguments, Mapping):
        raise RequestError(
            f"Expected the arguments as a JSON object, but got {arguments!r}.", f"{where}.function.arguments"
        )
    return {"type": "function", **call, "function": {**function, "arguments": dict(arguments)}}


def describing(tools: Sequence[Mapping[str, Any]], template: str) -> Message:
    """A system message that describes the tools, in the form that this template expects."""
    return _message({"role": "system", "content": described_tools(tools, _form_of(template))}, 0, template)


def _with_calls_as_text(message: Message, template: str) -> str:
    """For a template that shows no tool calls: the content, followed by the calls as the model wrote them."""
    form = _form_of(template)
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]
    return "\n".join([*filter(None, [message["content"]]), form.write_all(calls)])


def _form_of(template: str) -> ToolForm:
    """How a model writes calls, by its template."""
    family = family_of(template)
    return HERMES if family is None or family.form is None else family.form


def mentions(template: str, word: str) -> bool:
    return re.search(rf"\b{word}\b", template) is not None

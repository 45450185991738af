"""Grammars that make an answer call tools: `tool_choice` required or a tool by name, and strict tools.

    calls: (first_0 | first_1) (separator (next_0 | next_1)){0,15} end

A tool that is named is called exactly once, as OpenAI's API has it.
A tool that may be called leaves room for text; or, where the answer has a grammar of its own, for that.

Each tool is a rule of its own, so references within its schema stay within it; a comment before its rules names it, so
that an error can. A special token stands in a Lark grammar by its id, not as text.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inference.text.grammar_source import OTHERWISE, SpecialTokens, json_schema, literal
from inference.text.parameter_grammar import ParameterGrammar
from inference.text.tool_forms import HARMONY_FINAL, NUMBER, NUMBER_PATTERN, ToolForm
from interface.errors import RequestError
from interface.requests import ChatPrompt, Grammar, Prompt

MOST_CALLS = 16
"""The most calls in one answer: without a limit, a small model may go on calling for ever."""
MOST_SHOWN = 100
"""Characters of a wrong name that an error repeats."""
NAME = re.compile(r"[\w.-]{1,128}")
"""The names that Anthropic's API allows, and the dots that MCP adds. OpenAI's allows half as many characters."""


def tool_grammar(prompt: ChatPrompt, form: ToolForm, special: SpecialTokens, has_otherwise: bool = False) -> Grammar:
    """The grammar of a conversation's tools and tool choice.

    Args:
        prompt: the conversation, with its tools.
        form: how the model writes calls.
        special: the tokens that are not text for the model.
        has_otherwise: an answer without calls has a grammar of its own, here called `otherwise`.

    Raises:
        RequestError: the named tool is not among the tools, or a tool cannot be enforced.
    """
    tools = list(_functions(prompt))
    must_call = is_forced(prompt)
    if prompt.named_tool is not None:
        tools = [tool for tool in tools if tool["name"] == prompt.named_tool]
    if must_call and not tools:
        wanted = "any tool" if prompt.named_tool is None else f"the tool {prompt.named_tool!r}"
        raise RequestError(f"tool_choice asks for {wanted}, which is not among the tools.", "tool_choice")
    is_single = form.is_harmony or not prompt.parallel_tool_calls or prompt.named_tool is not None
    most_calls = 1 if is_single else MOST_CALLS
    if form.is_harmony:
        answer = _messages(form, special, must_call, has_otherwise)
    elif must_call or not has_otherwise:
        answer = _answer(form, special, must_call, most_calls)
    else:
        answer = _either(form, special)
    rules = [*answer, *_calls(form, special, tools, most_calls)]
    return Grammar("tools", "\n".join(rules), "tools")


def is_forced(prompt: Prompt) -> bool:
    """Whether the model must call a tool, so that a grammar alone has to know the form of calls."""
    if not isinstance(prompt, ChatPrompt):
        return False
    return prompt.named_tool is not None or prompt.tool_choice == "required"


def wants_grammar(prompt: ChatPrompt) -> bool:
    """Whether the tools and the tool choice ask for a grammar: a call is forced, or a tool is strict."""
    if is_forced(prompt):
        return True
    functions = [tool.get("function", tool) for tool in prompt.tools or ()]
    return prompt.tool_choice == "auto" and any(
        isinstance(function, Mapping) and function.get("strict") for function in functions
    )


def _functions(prompt: ChatPrompt) -> Iterator[Mapping[str, Any]]:
    for index, tool in enumerate(prompt.tools or ()):
        function = tool.get("function", tool)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not NAME.fullmatch(name):
            came = name[:MOST_SHOWN] if isinstance(name, str) else name
            raise RequestError(
                f"Expected the name of a tool, at most 128 letters, digits, '_', '-' and '.', but got {came!r}.",
                f"tools.{index}.function.name",
            )
        yield function


def _answer(form: ToolForm, special: SpecialTokens, must_call: bool, most_calls: int) -> Iterator[str]:
    """The rules of an answer: calls alone, or text in which every call has the form of its tool."""
    if must_call:
        yield f"start: {literal(form.trigger, special)} calls"
        return
    begin, end = form.around_content or ("", "")
    content = f"({literal(begin, special)})? TEXT ({literal(end, special)})?" if begin in special else "TEXT"
    yield f"start: (until calls){{0,{most_calls}}} {content}"
    yield r"TEXT: /(.|\n)*/"
    if form.trigger.startswith(tuple(special)):
        yield f"until: TEXT {literal(form.trigger, special)}"
    else:
        yield f"until[lazy]: TEXT {literal(form.trigger, special)}"


def _either(form: ToolForm, special: SpecialTokens) -> Iterator[str]:
    """An answer that is calls, or something else with a grammar of its own."""
    yield f"start: {literal(form.trigger, special)} calls | @{OTHERWISE}"


def _messages(form: ToolForm, special: SpecialTokens, must_call: bool, has_otherwise: bool) -> Iterator[str]:
    """An answer in harmony's form: reasoning and the like, each a message; then a call, or the answer's own message."""
    last = [f"{literal(form.trigger, special)} calls"]
    if not must_call:
        last.append(literal(HARMONY_FINAL, special) + (f" @{OTHERWISE}" if has_otherwise else " TEXT"))
    yield f"start: (thought {literal('<|end|><|start|>assistant', special)})* ({' | '.join(last)})"
    begin, head_ends = literal("<|channel|>", special), literal("<|message|>", special)
    yield f'thought: {begin} ("analysis" | "commentary") {head_ends} TEXT'
    yield r"TEXT: /(.|\n)*/"


def _calls(
    form: ToolForm, special: SpecialTokens, tools: Sequence[Mapping[str, Any]], most_calls: int
) -> Iterator[str]:
    """The calls after the trigger that begins the first of them."""
    numbers = range(len(tools))
    first = " | ".join(f"first_{number}" for number in numbers)
    following = " | ".join(f"next_{number}" for number in numbers)
    more = f"({literal(form.separator, special)} ({following})){{0,{most_calls - 1}}}" if most_calls > 1 else ""
    yield f"calls: ({first}) {more} {literal(form.end, special)}"
    if NUMBER in form.before_name + form.before_arguments:
        yield f"NUMBER: /{NUMBER_PATTERN}/"
    for number, tool in enumerate(tools):
        name = tool["name"]
        yield f"// {name}"
        begin = (form.begin + form.before(name)).removeprefix(form.trigger)
        yield f"first_{number}: {_numbered(begin, special)} rest_{number}"
        if most_calls > 1:
            yield f"next_{number}: {_numbered(form.before(name), special)} rest_{number}"
        yield from _arguments(form, special, tool, number)


def _numbered(text: str, special: SpecialTokens) -> str:
    """A text in which there may be a number that the model chooses."""
    return " NUMBER ".join(literal(piece, special) for piece in text.split(NUMBER))


def _arguments(form: ToolForm, special: SpecialTokens, tool: Mapping[str, Any], number: int) -> Iterator[str]:
    """The arguments of one tool's calls, and what ends the call."""
    is_strict, end = bool(tool.get("strict")), literal(form.after_arguments, special)
    schema = _schema(tool)
    if form.parameters is None:
        yield f"rest_{number}: %json {json.dumps(schema, ensure_ascii=False)} {end}"
        return
    yield f"rest_{number}: parameters_{number} {end}"
    try:
        yield from ParameterGrammar(form.parameters, schema, number, special, is_strict).rules()
    except ValueError as error:
        raise _not_enforced(tool, error) from error


def _schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's schema; one that lists no parameters has none.

    A tool that is not strict may have keywords that cannot be enforced.
    """
    parameters = tool.get("parameters") or {}
    try:
        schema = json_schema(parameters, lenient=not tool.get("strict"))
    except ValueError as error:
        raise _not_enforced(tool, error) from error
    if schema.keys() & {"$ref", "allOf", "anyOf", "oneOf", "properties", "required"}:
        return {"type": "object", **schema}
    return {"type": "object", "additionalProperties": False, **schema}


def _not_enforced(tool: Mapping[str, Any], error: ValueError) -> RequestError:
    message = f"The parameters of the tool {tool['name']!r} cannot be enforced: {error}"
    return RequestError(message, "tools")  # how it is written there, and at which place, only the API knows

"""A conversation as the OpenAI and Anthropic APIs send it becomes a `ChatPrompt`: what their endpoints share."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from contract.bodies import LenientBody
from contract.refusals import Refusal
from interface.requests import ChatPrompt, Grammar

JSON_OBJECT = Grammar("json_schema", '{"type": "object"}')
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}

# --- Content ----------------------------------------------------------------------------------------------------------


class TextPart(LenientBody):
    """A piece of a message's content."""

    type: Literal["text", "refusal", "input_text", "output_text"]
    text: str | None = None
    refusal: str | None = None


def text_of(content: Any) -> Any:
    """Return content as one text: parts are joined by line breaks. What is no content is left for the field's check.

    Raises:
        ValueError: a part is not text; the message says which.
    """
    if not isinstance(content, list):
        return content
    return "\n".join(_text_of_part(part, index) for index, part in enumerate(content))


def text_at(content: Any, where: str) -> str:
    """The same for content that no field checks; `where` is its place in the body.

    Raises:
        Refusal: 400, it is neither a text nor a list of text parts.
    """
    try:
        text = text_of(content)
    except ValueError as error:
        raise Refusal(400, f"{where}: {error}.", param=where) from None
    if not isinstance(text, str):
        raise Refusal(400, f"{where}: Expected a text or a list of text parts.", param=where)
    return text


def _text_of_part(part: Any, index: int) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ("text", "refusal", "input_text", "output_text"):
        raise ValueError(f"this model takes only text, and part {index} is of type {kind!r}")
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise ValueError(f"part {index} is of type {kind!r}, but it holds no text")
    return text


Content = Annotated[str, BeforeValidator(text_of, json_schema_input_type=str | list[TextPart | str])]
"""A text, or a list of text parts, as one text."""

# --- Tools ------------------------------------------------------------------------------------------------------------


def function_tool(
    name: str, description: str | None, parameters: Mapping[str, Any] | None, strict: bool | None = None
) -> dict[str, Any]:
    """A tool in the form that chat templates expect. `parameters` is a JSON schema."""
    function: dict[str, Any] = {"name": name}
    if description is not None:
        function["description"] = description
    function["parameters"] = dict(parameters or NO_PARAMETERS)
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


def tool_call(call_id: str | None, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A call that the assistant has made, in the form that chat templates expect."""
    call = {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}
    return call if call_id is None else {"id": call_id, **call}


def arguments_of(text: str, param: str) -> dict[str, Any]:
    """A call's arguments, which are a JSON object as text on the wire; an empty text means none.

    Raises:
        Refusal: 400, the text is something else.
    """
    try:
        arguments = json.loads(text or "{}")
    except (ValueError, RecursionError):
        arguments = text
    if not isinstance(arguments, dict):
        raise Refusal(400, f"{param}: Expected a JSON object as text; got {text[:200]!r}.", param=param)
    return arguments


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools the model may or must call. `name` makes it call that one; `allowed` hides all others from it."""

    mode: Literal["none", "auto", "required"] = "auto"
    name: str | None = None
    allowed: Sequence[str] | None = None

    @property
    def forces_a_call(self) -> bool:
        return self.mode == "required" or self.name is not None


# --- The prompt -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Conversation:
    """Everything that the chat template and the response parser get to see."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    param: str = "messages"
    """What the API calls the messages."""

    def prompt(self) -> ChatPrompt:
        """The conversation as the engine takes it.

        Raises:
            Refusal: 400, the tool choice and the tools do not fit together, or there are no messages.
        """
        if not self.messages:
            raise Refusal(400, "Expected at least one message, got none.", param=self.param)
        if self.continue_final_message and self.messages[-1]["role"] != "assistant":
            message = "continue_final_message continues a message of the assistant, but the last one is not one."
            raise Refusal(400, message, param=self.param)
        tools = self._offered_tools()
        return ChatPrompt(
            messages=self.messages,
            tools=tools or None,
            template_arguments=self.template_arguments,
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
            add_special_tokens=self.add_special_tokens,
            tool_choice=self.tool_choice.mode if tools else "none",
            named_tool=self.tool_choice.name,
            parallel_tool_calls=self.parallel_tool_calls,
        )

    def _offered_tools(self) -> list[Mapping[str, Any]]:
        choice = self.tool_choice
        names = [str(tool["function"]["name"]) for tool in self.tools]
        if unknown := set(filter(None, [choice.name, *(choice.allowed or ())])) - set(names):
            raise Refusal(
                400, f"tool_choice names {_listed(unknown)}; the tools are {_listed(names)}.", param="tool_choice"
            )
        if not names and choice.mode == "required":
            raise Refusal(400, "tool_choice demands a call, but there are no tools.", param="tool_choice")
        is_offered = [choice.allowed is None or name in choice.allowed for name in names]
        return [tool for tool, offered in zip(self.tools, is_offered, strict=True) if offered]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"


def thinking_arguments(effort: str | None) -> dict[str, Any]:
    """Template arguments that turn reasoning on or off, for templates that know one of them."""
    if effort is None:
        return {}
    return {"enable_thinking": effort != "none", "reasoning_effort": effort}


def schema_grammar(schema: Any, param: str) -> Grammar:
    """The grammar that enforces a JSON schema.

    Raises:
        Refusal: 400, the schema is not JSON.
    """
    try:
        return Grammar("json_schema", json.dumps(schema, allow_nan=False))
    except ValueError:
        raise Refusal(400, f"{param}: Expected a JSON schema; this one holds a number that JSON has not.") from None


class StructuredOutputs(LenientBody):
    """vLLM's name for a grammar. Exactly one of the fields."""

    json_schema: dict[str, Any] | str | None = Field(default=None, alias="json", description="A JSON schema.")
    regex: str | None = None
    choice: list[str] | None = Field(default=None, min_length=1)
    grammar: str | None = Field(default=None, description="A grammar in Lark's form, as llguidance reads it.")
    json_object: bool | None = None

    def as_grammar(self) -> Grammar:
        param = "structured_outputs"
        found: list[Grammar] = []
        if self.json_schema is not None:
            found.append(schema_grammar(_parsed(self.json_schema, param), f"{param}.json"))
        if self.regex is not None:
            found.append(Grammar("regex", self.regex))
        if self.choice is not None:
            found.append(Grammar("choice", json.dumps(self.choice)))
        if self.grammar is not None:
            found.append(Grammar("lark", self.grammar))
        if self.json_object:
            found.append(JSON_OBJECT)
        if len(found) != 1:
            message = f"{param}: Expected one of json, regex, choice, grammar and json_object; got {len(found)}."
            raise Refusal(400, message, param=param)
        return found[0]


def _parsed(schema: dict[str, Any] | str, param: str) -> Any:
    return arguments_of(schema, f"{param}.json") if isinstance(schema, str) else schema

"""Reads the body of a Messages request: a conversation in blocks becomes one as chat templates know it."""

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from contract.bodies import LenientBody
from contract.refusals import Refusal
from interface.requests import ChatPrompt, Grammar, SamplingParams

MAX_TEMPERATURE = 2


class Tool(LenientBody):
    """A function that the model may call. Anthropic's own server tools have a `type`, and are left out."""

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    type: str | None = None


class ToolChoice(LenientBody):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(LenientBody):
    type: Literal["enabled", "disabled", "adaptive"]


class OutputFormat(LenientBody):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(LenientBody):
    format: OutputFormat | None = None


class Message(LenientBody):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class CountTokensBody(LenientBody):
    """A conversation whose tokens are to be counted."""

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
    system: str | list[dict[str, Any]] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None

    def prompt(self) -> ChatPrompt:
        """The conversation as chat templates know it. Raises Refusal."""
        choice = self.tool_choice or ToolChoice(type="auto")
        tools = [_function(tool) for tool in self.tools or () if tool.input_schema is not None]
        thinking = {} if self.thinking is None else {"enable_thinking": self.thinking.type != "disabled"}
        return ChatPrompt(
            messages=list(_merged(self._messages())),
            tools=tools or None,
            template_arguments=thinking,
            tool_choice={"any": "required", "none": "none"}.get(choice.type, "auto"),  # type: ignore[arg-type]
            named_tool=_named(choice, tools),
            parallel_tool_calls=not choice.disable_parallel_tool_use,
        )

    def _messages(self) -> Iterator[dict[str, Any]]:
        if self.system:
            yield {"role": "system", "content": _text(self.system, "system")}
        for number, message in enumerate(self.messages):
            where = f"messages.{number}.content"
            if isinstance(message.content, str):
                yield {"role": message.role, "content": message.content}
            elif message.role == "assistant":
                yield _assistant(message.content, where)
            else:
                yield from _user(message.role, message.content, where)


class MessagesBody(CountTokensBody):
    """What to generate, and how to answer."""

    max_tokens: Annotated[int, Field(ge=1)]
    stream: bool = False
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = None
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    output_config: OutputConfig | None = None

    def params(self) -> SamplingParams:
        """The sampling parameters. Raises Refusal."""
        try:
            return SamplingParams(
                max_tokens=self.max_tokens,
                stop=self.stop_sequences,
                temperature=self.temperature,
                top_p=self.top_p,
                top_k=self.top_k,
            )
        except ValidationError as error:
            (problem, *_) = error.errors(include_url=False)
            name = "stop_sequences" if problem["loc"][0] == "stop" else str(problem["loc"][0])
            raise Refusal(400, f"{name}: {problem['msg']}", param=name) from None

    def grammar(self) -> Grammar | None:
        """What the answer's text must match, if the request says so."""
        if self.output_config is None or self.output_config.format is None:
            return None
        return Grammar("json_schema", json.dumps(self.output_config.format.schema_))


def _function(tool: Tool) -> dict[str, Any]:
    """A tool in OpenAI's form, which is what chat templates know."""
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
    return {"type": "function", "function": function}


def _named(choice: ToolChoice, tools: Sequence[dict[str, Any]]) -> str | None:
    """The one tool that has to be called. Raises Refusal."""
    if choice.type in ("any", "tool") and not tools:
        raise Refusal(400, f"tool_choice: {choice.type!r} needs tools, and there are none", param="tool_choice")
    if choice.type != "tool":
        return None
    names = [tool["function"]["name"] for tool in tools]
    if choice.name not in names:
        raise Refusal(400, f"tool_choice.name: expected one of {', '.join(names)}, got {choice.name!r}")
    return choice.name


def _assistant(blocks: Sequence[dict[str, Any]], where: str) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for number, block in enumerate(blocks):
        match block:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "thinking", "thinking": str(thought)}:
                thoughts.append(thought)
            case {"type": "redacted_thinking"}:
                pass
            case {"type": "tool_use", "id": str(id), "name": str(name), "input": dict(arguments)}:
                calls.append({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
            case _:
                raise _unknown_block(block, f"{where}.{number}", "text, thinking or tool_use")
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _user(role: str, blocks: Sequence[dict[str, Any]], where: str) -> Iterator[dict[str, Any]]:
    """The results of tools come first, as messages of their own; then the text."""
    texts: list[str] = []
    for number, block in enumerate(blocks):
        match block:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "tool_result", "tool_use_id": str(id)}:
                content = _text(block.get("content") or "", f"{where}.{number}.content")
                yield {"role": "tool", "tool_call_id": id, "content": content}
            case _:
                raise _unknown_block(block, f"{where}.{number}", "text or tool_result")
    if texts:
        yield {"role": role, "content": "\n".join(texts)}


def _text(content: str | Sequence[Any], where: str) -> str:
    """The text of a content that may hold text blocks only. Raises Refusal."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for number, block in enumerate(content):
        match block:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case _:
                raise _unknown_block(block, f"{where}.{number}", "text")
    return "\n".join(texts)


def _unknown_block(block: Any, where: str, expected: str) -> Refusal:
    came = block.get("type") if isinstance(block, dict) else type(block).__name__
    if came in ("image", "document"):
        return Refusal(400, f"{where}: this model reads text only, and this is a block of type {came!r}", param=where)
    return Refusal(400, f"{where}: expected a complete block of type {expected}, got type {came!r}", param=where)


def _merged(messages: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Join what one role says in turn: the API allows it, and many templates do not."""
    last: dict[str, Any] | None = None
    for message in messages:
        if last is not None and last["role"] == message["role"] in ("user", "system"):
            last = last | {"content": f"{last['content']}\n\n{message['content']}"}
            continue
        if last is not None:
            yield last
        last = message
    if last is not None:
        yield last

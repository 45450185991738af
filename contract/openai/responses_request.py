"""Reads the body of `POST /v1/responses`, and turns its items into messages in the form of chat templates."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field

from contract.bodies import LenientBody, refuse
from contract.content import first_of_question, text_at
from contract.conversation import checked_prompt
from contract.opaque import REASONING, opened
from contract.openai.chat_request import Choice
from contract.openai.client_tools import call_of_item, result_of_item
from contract.openai.compacted import summary_of
from contract.openai.custom_tools import INPUT
from contract.openai.items import Item
from contract.openai.references import References
from contract.openai.response_settings import SETTINGS, ReasoningSettings, Settings, TextSettings
from contract.openai.responses_tools import FlatTools, as_called, called_name
from contract.openai.sampling import SamplingFields
from contract.refusals import Refusal
from contract.requests import shortened
from contract.tools import ToolChoice, arguments_of, tool_call
from interface.kept import Kept
from interface.requests import DEFAULT_MAX_TOKENS, MAX_INTEGER, MAX_LOGPROBS, ChatPrompt, Grammar

COMES_BACK = "Comes back with the response."
LOGPROBS = "message.output_text.logprobs"
ENCRYPTED_REASONING = "reasoning.encrypted_content"

OF_OTHER_TOOLS = (
    "agent_message",
    "code_interpreter_call",
    "computer_call",
    "computer_call_output",
    "file_search_call",
    "image_generation_call",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "mcp_list_tools",
    "multi_agent_call",
    "multi_agent_call_output",
    "program",
    "program_output",
    "tool_search_call",
    "tool_search_output",
    "web_search_call",
)
"""The items of tools that run on OpenAI's servers, or take eyes, in a conversation that was begun there: left out, as
these tools are. What came of them is in the messages after them.
"""
USE_MAX_OUTPUT_TOKENS = refuse("it is a field of /v1/chat/completions; use max_output_tokens")

Message = dict[str, Any]


class Items(NamedTuple):
    """A conversation in items: those that were there before a request, and its own."""

    before: list[Item]
    own: list[Item]

    @property
    def all(self) -> list[Item]:
        return self.before + self.own


def _conversation_id(value: Any) -> Any:
    match value:
        case {"id": str(id)}:
            return id
    return value


class InputBody(LenientBody):
    """A conversation: an input, the tools for it, and what a response must look like."""

    model: str | None = Field(default=None, description="One of the names of GET /v1/models; the default is the first.")
    input: str | list[Item] = Field(
        default_factory=list,
        description="A text of the user's, or a list of items. May be left out where it follows others.",
    )
    instructions: str | None = Field(default=None, description="A system message before the input.")
    tools: FlatTools = Field(default_factory=list)
    tool_choice: Choice = ToolChoice()
    parallel_tool_calls: bool = Field(default=True, description="Let one answer hold several tool calls.")
    text: TextSettings | None = None
    reasoning: ReasoningSettings | None = None
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the model's chat template, `enable_thinking` for example."
    )
    truncation: Literal["auto", "disabled"] = Field(
        default="disabled",
        description="What becomes of a conversation that is too long: `auto` leaves out its oldest messages, "
        "`disabled` refuses it.",
    )
    previous_response_id: str | None = Field(
        default=None, description="A response that is still kept, after whose conversation the input comes."
    )
    conversation: Annotated[
        str | None, BeforeValidator(_conversation_id, json_schema_input_type=str | dict[str, Any] | None)
    ] = Field(default=None, description="A conversation that is kept, or its `id`: the input and the answer join it.")
    prompt: Annotated[None, refuse("this server keeps no prompts")] = None

    def items(self, kept: Kept) -> Items:
        """The conversation in items, with those that the request only refers to. Raises Refusal."""
        referred = References(kept)
        before = self._before(referred)
        if isinstance(self.input, str):
            return Items(before, [{"role": "user", "content": self.input}])
        return Items(before, [_referred(item, referred) for item in self.input])

    def _before(self, referred: References) -> list[Item]:
        if self.conversation is not None:
            if self.previous_response_id is not None:
                message = "conversation: Expected only one of it and previous_response_id, got both."
                raise Refusal(400, message, param="conversation")
            return list(referred.kept_conversation(self.conversation))
        return [] if self.previous_response_id is None else referred.conversation(self.previous_response_id)

    def messages(self, items: Sequence[Item]) -> list[Message]:
        """The conversation in the form of chat templates. Raises Refusal."""
        instructions = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        messages = instructions + as_messages(items, "input")
        shows_current_turn_only = self.reasoning is not None and self.reasoning.context == "current_turn"
        return _without_earlier_reasoning(messages) if shows_current_turn_only else messages

    def conversation_prompt(self, items: Sequence[Item]) -> ChatPrompt:
        """Raises Refusal."""
        prompt = ChatPrompt(
            self.messages(items),
            [tool.as_function() for tool in self.tools],
            parallel_tool_calls=self.parallel_tool_calls,
            template_arguments=self.template_arguments,
            leave_room=self.answer_tokens if self.truncation == "auto" else None,
        )
        return checked_prompt(prompt, as_called(self.tool_choice, self.tools), param="input")

    def after(self, items: Sequence[Item]) -> Self:
        """The body with the settings that its items have changed. Raises Refusal."""
        settings = Settings(self.tools, self.reasoning, self.text).after(items, "input")
        return self.model_copy(update={"tools": settings.tools, "reasoning": settings.reasoning, "text": settings.text})

    @property
    def template_arguments(self) -> dict[str, Any]:
        asked = {} if self.reasoning is None else self.reasoning.template_arguments
        return asked | self.chat_template_kwargs

    @property
    def answer_tokens(self) -> int:
        """How many tokens of the context a shortened conversation leaves for the answer, if there are as many."""
        return DEFAULT_MAX_TOKENS


class ResponsesBody(InputBody, SamplingFields):
    """A conversation to answer, and how to answer."""

    model_config = SamplingFields.model_config

    n: int = Field(default=1, ge=1, le=1, description="A response has one choice.")
    max_output_tokens: int | None = Field(
        default=None, ge=1, le=MAX_INTEGER, description="Stop after this many tokens. The default is all the context."
    )
    max_tokens: Annotated[None, USE_MAX_OUTPUT_TOKENS] = None
    max_completion_tokens: Annotated[None, USE_MAX_OUTPUT_TOKENS] = None
    messages_: Annotated[None, refuse("it is a field of /v1/chat/completions; use input")] = Field(
        default=None, alias="messages"
    )
    reasoning_effort: Annotated[None, refuse("it is a field of /v1/chat/completions; use reasoning.effort")] = None
    logprobs: Annotated[None, refuse("use top_logprobs, or include", False)] = None
    top_logprobs: int | None = Field(
        default=None, ge=0, le=MAX_LOGPROBS, description="Report this many of the most likely alternatives."
    )
    include: list[str] = Field(
        default_factory=list,
        description=f"`{LOGPROBS}` reports log probabilities. `{ENCRYPTED_REASONING}` repeats the reasoning, "
        "for clients that send back nothing else; it is not encrypted.",
    )
    metadata: dict[str, str] = Field(default_factory=dict, description=COMES_BACK)
    context_management: list[dict[str, Any]] | None = Field(
        default=None,
        description="Changes nothing: a conversation stays whole. See `truncation`, and `/v1/responses/compact`.",
    )
    max_tool_calls: int | None = Field(
        default=None, description=f"Limits tools that run on a server, of which there are none. {COMES_BACK}"
    )
    prompt_cache_key: str | None = Field(default=None, description=COMES_BACK)
    safety_identifier: str | None = Field(default=None, description=COMES_BACK)
    user: str | None = Field(default=None, description=COMES_BACK)
    multi_agent: Annotated[None, refuse("this server runs no agents of its own", {"enabled": False})] = None
    store: bool = Field(default=True, description="Keep the response for a while, for previous_response_id.")
    background: bool = Field(
        default=False,
        description="Answer at once, and go on without the client, who reads the response by its id. Needs `store`.",
    )

    def check(self) -> None:
        """Raises Refusal."""
        self.check_stream_options()
        if self.background and not self.store:
            message = "background: Expected store: true with it; what is not kept could not be read."
            raise Refusal(400, message, param="background")

    @property
    def answer_tokens(self) -> int:
        return self.max_output_tokens or DEFAULT_MAX_TOKENS

    @property
    def chosen_logprobs(self) -> int | None:
        """How many alternatives to report; None if no log probabilities are wanted."""
        return self.top_logprobs or 0 if LOGPROBS in self.include or self.top_logprobs else None

    def text_grammar(self) -> Grammar | None:
        """Raises Refusal."""
        if self.tool_choice.forces_a_call:
            return None  # a forced call has a grammar of its own
        return self.grammar()

    def grammars(self) -> Iterator[tuple[str, Grammar]]:
        format = None if self.text is None else self.text.format
        if format is not None and (wanted := format.as_grammar()) is not None:
            yield "text.format", wanted
        yield from super().grammars()


def as_messages(items: Sequence[Item], where: str) -> list[Message]:
    """Items in the form of chat templates; `where` is their place in the body. Raises Refusal."""
    messages: list[Message] = []
    asked = first_of_question([_role(item) for item in items])
    for index, item in enumerate(items):
        present = {name: value for name, value in item.items() if value is not None}
        _add(messages, present, f"{where}.{index}", is_asked=index >= asked)
    return messages


def _without_earlier_reasoning(messages: list[Message]) -> list[Message]:
    """The messages, of which those before the user's last one lose their reasoning."""
    asked = max((number for number, message in enumerate(messages) if message["role"] == "user"), default=0)
    for message in messages[:asked]:
        message.pop("reasoning_content", None)
    return messages


def _role(item: Item) -> str:
    """Whose message an item becomes a part of."""
    if str(item.get("type")).endswith("_call_output"):
        return "tool"
    return str(item.get("role", "assistant"))


def _referred(item: Item, referred: References) -> Item:
    """An item, or the one that it refers to. Raises Refusal."""
    present = {name for name, value in item.items() if value is not None}
    match item:
        case {"id": str(id)} if item.get("type") == "item_reference" or present == {"id"}:
            return referred.item(id)
    return item


def _add(messages: list[Message], item: Item, where: str, *, is_asked: bool) -> None:
    """Add an item to the conversation. What the assistant did in one turn becomes one message.

    Args:
        where: its place in the body.
        is_asked: whether it is of the question that is to be answered.

    Raises:
        Refusal: 400, it is not an item that a conversation here can have.
    """
    match item:
        case {"type": "function_call", "name": str(name), "call_id": str(call_id)}:
            arguments = arguments_of(item.get("arguments", ""), f"{where}.arguments")
            _turn(messages, ()).setdefault("tool_calls", []).append(
                tool_call(call_id, _called_name(item, name, where), arguments)
            )
        case {"type": "custom_tool_call", "name": str(name), "call_id": str(call_id), "input": str(text)}:
            _turn(messages, ()).setdefault("tool_calls", []).append(
                tool_call(call_id, _called_name(item, name, where), {INPUT: text})
            )
        case {"type": "shell_call" | "local_shell_call" | "apply_patch_call"}:
            _turn(messages, ()).setdefault("tool_calls", []).append(call_of_item(item, where))
        case {"type": "shell_call_output" | "local_shell_call_output" | "apply_patch_call_output"}:
            messages.append(result_of_item(item, where))
        case {"type": "function_call_output" | "custom_tool_call_output", "call_id": str(call_id)}:
            content = text_at(item.get("output"), f"{where}.output", notes_media=True)
            messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
        case {"type": "function_call_output"} if "call_id" not in item:  # of whichever call
            content = text_at(item.get("output"), f"{where}.output", notes_media=True)
            messages.append({"role": "tool", "content": content})
        case {"type": str(type)} if type in OF_OTHER_TOOLS or type in SETTINGS:
            pass
        case {"type": "compaction_trigger"}:
            raise Refusal(400, f"{where}: Expected a conversation; POST /v1/responses/compact sums it up.", param=where)
        case {"type": "compaction"}:
            turn = _turn(messages, ("content", "tool_calls"))
            turn["content"] = summary_of(item, where)
        case {"type": "reasoning"}:
            if thoughts := _thoughts(item, where):
                _turn(messages, ("reasoning_content", "content", "tool_calls"))["reasoning_content"] = thoughts
        case {"role": "assistant"} if item.get("type", "message") == "message":
            turn = _turn(messages, ("content", "tool_calls"))
            turn["content"] = text_at(item.get("content"), f"{where}.content", notes_media=True)
        case {"role": "user" | "system" | "developer" as role} if item.get("type", "message") == "message":
            notes_media = not is_asked and role == "user"
            content = text_at(item.get("content"), f"{where}.content", notes_media=notes_media)
            messages.append({"role": role, "content": content})
        case _:
            raise Refusal(
                400, f"{where}: Expected a message, a tool call or its output, got {_kind(item)}.", param=where
            )


def _called_name(item: Item, name: str, where: str) -> str:
    """The name by which the model has called a tool. Raises Refusal."""
    namespace = item.get("namespace")
    if not isinstance(namespace, str | None):
        raise Refusal(400, f"{where}.namespace: Expected a name.", param=f"{where}.namespace")
    return called_name(name, namespace)


def _turn(messages: list[Message], unless: tuple[str, ...]) -> Message:
    """The assistant's message that is being put together, or a new one if it has one of these fields already."""
    if not messages or messages[-1]["role"] != "assistant" or any(name in messages[-1] for name in unless):
        messages.append({"role": "assistant"})
    return messages[-1]


def _thoughts(item: Item, where: str) -> str:
    """The text of a reasoning item; a summary stands in for a text that the client did not get or keep."""
    parts = item.get("content") or item.get("summary") or []
    if not parts:
        return opened(item.get("encrypted_content"), REASONING) or ""
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise Refusal(400, f"{where}.content: Expected a list of parts.", param=f"{where}.content")
    texts = [part.get("text") or "" for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise Refusal(400, f"{where}.content: Expected parts with a text each.", param=f"{where}.content")
    return "\n".join(texts)


def _kind(item: Item) -> str:
    for what in ("type", "role"):
        if what in item:
            return f"an item of {what} {str(shortened(item[what]))!r}"
    return "an item without type and role"

"""Reads the body of `POST /v1/chat/completions`."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field

from contract.bodies import LenientBody, refuse
from contract.content import Content, first_of_question, text_at
from contract.conversation import checked_prompt
from contract.openai.custom_tools import FORMAT, INPUT, InputFormat, custom_function
from contract.openai.metadata import check_metadata
from contract.openai.reasoning_fields import ReasoningFields
from contract.openai.sampling import SamplingFields
from contract.refusals import Refusal
from contract.requests import shortened
from contract.tools import FREE_CHOICE, ToolChoice, arguments_of, check_parameters, function_tool, tool_call
from interface.requests import MAX_INTEGER, MAX_LOGPROBS, ChatPrompt

Name = Annotated[str, Field(min_length=1)]
OWN_TYPES = ("function", "custom", "namespace", "shell", "local_shell", "apply_patch")
"""The types of tools that clients run themselves. All others run on OpenAI's servers."""


class CalledFunction(LenientBody):
    """A function's name, and its arguments: a JSON object as text."""

    name: Name
    arguments: str = ""


class CalledCustom(LenientBody):
    """A custom tool's name, and its input."""

    name: Name
    input: str


class ToolCall(LenientBody):
    """A call that the assistant has made. Its type names the field that describes it."""

    id: str | None = None
    type: Literal["function", "custom"] = "function"
    function: CalledFunction | None = None
    custom: CalledCustom | None = None

    def as_dict(self, where: str) -> dict[str, Any]:
        """Raises Refusal."""
        if self.type == "custom":
            custom = _required(self.custom, f"{where}.custom")
            return tool_call(self.id, custom.name, {INPUT: custom.input})
        function = _required(self.function, f"{where}.function")
        return tool_call(self.id, function.name, arguments_of(function.arguments, f"{where}.function.arguments"))


class ChatMessage(LenientBody):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    refusal: str | None = Field(default=None, description="What the assistant said if it has no content.")
    audio: Annotated[None, refuse("this model takes only text; send the audio's transcript as content")] = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = Field(default=None, description="Also taken as `reasoning` and `thinking`.")
    reasoning: str | None = None
    thinking: str | None = None
    function_call: CalledFunction | None = Field(default=None, description="An older tool_calls, with one call.")
    prefix: bool = Field(
        default=False, description="In the last message: continue it, as `continue_final_message` does."
    )

    @property
    def known_role(self) -> str:
        """The role, by the name that templates know."""
        return "tool" if self.role == "function" else self.role

    def as_dict(self, where: str, *, is_asked: bool) -> dict[str, Any]:
        """The message in the form that chat templates expect; `is_asked` if it is of the question. Raises Refusal."""
        if self.content is None and self.role not in ("assistant", "function"):
            message = f"{where}.content: Expected a text or a list of text parts in a message of role {self.role!r}."
            raise Refusal(400, message, param=f"{where}.content")
        calls = [call.as_dict(f"{where}.tool_calls.{number}") for number, call in enumerate(self.tool_calls or ())]
        if self.function_call is not None:
            arguments = arguments_of(self.function_call.arguments, f"{where}.function_call.arguments")
            calls.append(tool_call(None, self.function_call.name, arguments))
        notes_media = not is_asked and self.role not in ("system", "developer")
        fields = {
            "role": self.known_role,
            "content": self.refusal
            if self.content is None
            else text_at(self.content, f"{where}.content", notes_media=notes_media),
            "name": self.name,
            "tool_call_id": self.tool_call_id,
            "reasoning_content": self.reasoning_content or self.reasoning or self.thinking,
            "tool_calls": calls or None,
        }
        return {name: value for name, value in fields.items() if value is not None}


def as_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The messages of a body in the form that chat templates expect. Raises Refusal."""
    asked = first_of_question([message.known_role for message in messages])
    return [message.as_dict(f"messages.{index}", is_asked=index >= asked) for index, message in enumerate(messages)]


def ends_with_a_prefix(messages: Sequence[ChatMessage]) -> bool:
    """Whether the last message says itself that it is to be continued, as clients of DeepSeek and Mistral write it."""
    return bool(messages) and messages[-1].prefix


class Function(LenientBody):
    """A function that the model may call. `parameters` is a JSON schema."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def as_tool(self, where: str) -> dict[str, Any]:
        """The function as chat templates expect it; `where` is its place in the body. Raises Refusal."""
        check_parameters(self.parameters, f"{where}.parameters")
        return function_tool(self.name, self.description, self.parameters, self.strict)


class CustomTool(LenientBody):
    """A tool whose input is a text."""

    name: Name
    description: str | None = None
    format: InputFormat | None = Field(default=None, description=FORMAT)


class OfferedTool(LenientBody):
    """A function that the model may call, or a custom tool. Its type names the field that describes it."""

    type: Literal["function", "custom"]
    function: Function | None = None
    custom: CustomTool | None = None

    def as_dict(self, where: str) -> dict[str, Any]:
        """The tool as chat templates expect it. Raises Refusal."""
        if self.type == "custom":
            custom = _required(self.custom, f"{where}.custom")
            return custom_function(custom.name, custom.description, custom.format)
        return _required(self.function, f"{where}.function").as_tool(f"{where}.function")


Described = TypeVar("Described")


def _required(field: Described | None, where: str) -> Described:
    """Raises Refusal: 400, there is no such field."""
    if field is None:
        raise Refusal(400, f"{where}: Field required", param=where)
    return field


def tool_choice_of(value: Any) -> Any:
    """A tool choice as chat completions write it, or as responses do, with fewer levels."""
    match value:
        case "none" | "auto" | "required":
            return ToolChoice(value)
        case {"type": "function", "function": {"name": str(name)}} | {"type": "custom", "custom": {"name": str(name)}}:
            return ToolChoice(name=name)
        case {"type": "function" | "custom", "name": str(name)}:
            return ToolChoice(name=name)
        case {"type": "shell" | "local_shell" | "apply_patch" as name}:
            return ToolChoice(name=name)
        case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": list(tools)}}:
            return ToolChoice(mode, allowed=_names_of(tools))
        case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": list(tools)}:
            return ToolChoice(mode, allowed=_names_of(tools))
        case {"type": str(kind)} if kind not in (*OWN_TYPES, "allowed_tools"):
            raise ValueError(f"Expected a tool that the client runs; no tool of type {shortened(kind)!r} runs here")
    raise ValueError("Expected none, auto, required, a function's name or allowed tools")


def _names_of(tools: Sequence[Any]) -> list[str]:
    """The names of allowed tools, without those that are OpenAI's own: they are left out of the tools, too."""
    return [_name_of(tool) for tool in tools if not isinstance(tool, dict) or tool.get("type", "function") in OWN_TYPES]


def _name_of(tool: Any) -> str:
    match tool:
        case {"function": {"name": str(name)}} | {"custom": {"name": str(name)}} | {"name": str(name)}:
            return name
        case {"type": "shell" | "local_shell" | "apply_patch" as name}:
            return str(name)
    raise ValueError("Expected allowed tools with a name each")


Choice = Annotated[
    ToolChoice,
    BeforeValidator(tool_choice_of, json_schema_input_type=Literal["none", "auto", "required"] | dict[str, Any]),
    Field(json_schema_extra={"default": "auto"}),  # as a request writes it
]


def function_choice_of(value: Any) -> Any:
    """A choice as the older `function_call` writes it."""
    match value:
        case "none" | "auto":
            return ToolChoice(value)
        case {"name": str(name)}:
            return ToolChoice(name=name)
    raise ValueError("Expected none, auto or a function's name")


FunctionChoice = Annotated[
    Any,  # a ToolChoice, whose schema the document would show although the API has no such type
    BeforeValidator(function_choice_of, json_schema_input_type=Literal["none", "auto"] | dict[str, Any]),
]


class ChatBody(ReasoningFields, SamplingFields):
    """A conversation to answer, and how to answer."""

    model_config = SamplingFields.model_config

    messages: list[ChatMessage]
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_INTEGER, description="An older max_completion_tokens.")
    max_completion_tokens: int | None = Field(
        default=None, ge=1, le=MAX_INTEGER, description="Stop after this many tokens. The default is all the context."
    )
    max_output_tokens: Annotated[None, refuse("it is a field of /v1/responses; use max_completion_tokens")] = None
    logprobs: bool = Field(default=False, description="Report each token's log probability.")
    top_logprobs: int | None = Field(
        default=None, ge=0, le=MAX_LOGPROBS, description="Report this many of the most likely alternatives."
    )
    tools: list[OfferedTool] = Field(default_factory=list)
    tool_choice: Choice = ToolChoice()
    parallel_tool_calls: bool = Field(default=True, description="Let one answer hold several tool calls.")
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the model's chat template, `enable_thinking` for example."
    )
    add_generation_prompt: bool = True
    continue_final_message: bool = Field(default=False, description="Continue the assistant's last message.")
    add_special_tokens: bool = False
    echo: bool = Field(default=False, description="Begin with the assistant's last message, if it is continued.")
    return_token_ids: bool = Field(default=False, description="Give the answer's token ids, too.")
    chat_template: Annotated[None, refuse("a request cannot bring a template; the model's own is used")] = None
    documents: Annotated[None, refuse("this server gives templates no documents; put them into messages", [])] = None
    functions: list[Function] = Field(
        default_factory=list, description="An older tools. The answer then has a function_call, and no tool_calls."
    )
    function_call: FunctionChoice = Field(default=None, description="An older tool_choice, for functions.")
    store: bool = Field(default=False, description="Keep the completion for a while, to be listed and read.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="What a stored completion can be found by.")
    web_search_options: Annotated[None, refuse("this server searches nothing")] = None

    @property
    def continues(self) -> bool:
        """Whether the last message is to be continued."""
        return self.continue_final_message or ends_with_a_prefix(self.messages)

    @property
    def chosen_max_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools, under whichever name the request has them. Raises Refusal."""
        tools = [tool.as_dict(f"tools.{number}") for number, tool in enumerate(self.tools)]
        return tools or [function.as_tool(f"functions.{number}") for number, function in enumerate(self.functions)]

    @property
    def custom_tools(self) -> frozenset[str]:
        """The names of the tools whose calls have a text, and no arguments."""
        return frozenset(tool.custom.name for tool in self.tools if tool.type == "custom" and tool.custom is not None)

    @property
    def chosen(self) -> ToolChoice:
        if not self.functions:
            return self.tool_choice
        choice: ToolChoice = self.function_call or FREE_CHOICE
        return choice

    @property
    def takes_one_call(self) -> bool:
        """Whether the answer may have one call only: the older form has no room for more."""
        return bool(self.functions) or not self.parallel_tool_calls

    def check(self) -> None:
        """Raises Refusal."""
        self.check_stream_options()
        if not self.separates_reasoning and self.offered:
            message = "reasoning_format: Expected one that separates the reasoning from calls of tools, or no tools."
            raise Refusal(400, message, param="reasoning_format")
        if self.functions and self.tools:
            raise Refusal(400, "functions: Expected only one of tools and functions, got both.", param="functions")
        if self.top_logprobs and not self.logprobs:
            raise Refusal(400, "top_logprobs: Expected logprobs: true with it.", param="top_logprobs")
        begins_a_message = self.add_generation_prompt and "add_generation_prompt" in self.model_fields_set
        if self.continue_final_message and begins_a_message:
            message = "continue_final_message: Expected only one of it and add_generation_prompt, got both."
            raise Refusal(400, message, param="continue_final_message")

    @property
    def stored_metadata(self) -> dict[str, str]:
        """The metadata of a completion that is stored. Raises Refusal."""
        try:
            return check_metadata(self.metadata)
        except ValueError as error:
            raise Refusal(400, f"metadata: {error}.", param="metadata") from None

    def conversation(self) -> ChatPrompt:
        """Raises Refusal."""
        prompt = ChatPrompt(
            as_messages(self.messages),
            self.offered,
            parallel_tool_calls=not self.takes_one_call,
            template_arguments=self.thinking_arguments | self.chat_template_kwargs,
            add_generation_prompt=self.add_generation_prompt and not self.continues,
            continue_final_message=self.continues,
            add_special_tokens=self.add_special_tokens,
        )
        return checked_prompt(prompt, self.chosen, choice_param="function_call" if self.functions else "tool_choice")

    def prefix(self) -> str:
        """What the answer begins with: the message that it continues, if that is wanted."""
        if not (self.echo and self.continues):
            return ""
        content: str = as_messages(self.messages)[-1].get("content", "")
        return content

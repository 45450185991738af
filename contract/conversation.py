"""A conversation, as the OpenAI and Anthropic APIs send it, becomes a `ChatPrompt`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from contract.refusals import Refusal
from contract.requests import shortened
from contract.tools import FREE_CHOICE, ToolChoice
from interface.requests import ChatPrompt


@dataclass(frozen=True, slots=True)
class Conversation:
    """What the chat template and the response parser get of a request."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: ToolChoice = FREE_CHOICE
    parallel_tool_calls: bool = True
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    leave_room: int | None = None
    """Shortens a conversation that is too long, so that there is room for an answer of this many tokens."""
    param: str = "messages"
    """The API's name for the field that holds the messages."""
    choice_param: str = "tool_choice"
    """The API's name for the field that holds the tool choice."""

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
            leave_room=self.leave_room,
        )

    def _offered_tools(self) -> list[Mapping[str, Any]]:
        choice = self.tool_choice
        names = [str(tool["function"]["name"]) for tool in self.tools]
        chosen = [] if choice.name is None else [choice.name]
        if unknown := {*chosen, *(choice.allowed or ())} - {*names}:
            message = f"{self.choice_param} names {_listed(unknown)}; the tools are {_listed(names)}."
            raise Refusal(400, message, param=self.choice_param)
        offered = [choice.allowed is None or name in choice.allowed for name in names]
        if not any(offered) and choice.mode == "required":
            which = "it allows no tools" if names else "there are no tools"
            raise Refusal(400, f"{self.choice_param} demands a call, but {which}.", param=self.choice_param)
        return [tool for tool, is_offered in zip(self.tools, offered, strict=True) if is_offered]


def _listed(names: Iterable[str]) -> str:
    return str(shortened(", ".join(map(repr, sorted(names))))) or "none"


def thinking_arguments(effort: str | None) -> dict[str, Any]:
    """Template arguments that say how much to reason, for templates that know one of them."""
    if effort is None:
        return {}
    return {**thinking_switches(effort != "none"), "reasoning_effort": effort}


def thinking_switches(thinks: bool) -> dict[str, Any]:
    """Template arguments that turn reasoning on or off: Qwen's and GLM's templates know one, DeepSeek's the other."""
    return {"enable_thinking": thinks, "thinking": thinks}


def history_switches(shows: bool) -> dict[str, Any]:
    """Template arguments that show the reasoning of earlier turns to the model, or leave it out.

    Each is known to some templates: to those of Qwen and Laguna, of GLM, and of Nemotron.
    """
    return {"preserve_thinking": shows, "clear_thinking": not shows, "truncate_history_thinking": not shows}

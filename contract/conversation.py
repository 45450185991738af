"""What conversations of the OpenAI and Anthropic APIs share: their check, and template arguments about reasoning."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from contract.refusals import Refusal
from contract.requests import shortened
from contract.tools import FREE_CHOICE, ToolChoice
from interface.requests import ChatPrompt


def checked_prompt(
    prompt: ChatPrompt, choice: ToolChoice = FREE_CHOICE, *, param: str = "messages", choice_param: str = "tool_choice"
) -> ChatPrompt:
    """Return a conversation with those of its tools that the choice allows, once it has been checked.

    Args:
        param: the API's name for the field that holds the messages.
        choice_param: the API's name for the field that holds the tool choice.

    Raises:
        Refusal: 400, the tool choice and the tools do not fit together, or there are no messages.
    """
    if not prompt.messages:
        raise Refusal(400, "Expected at least one message, got none.", param=param)
    if prompt.continue_final_message and prompt.messages[-1]["role"] != "assistant":
        message = "continue_final_message continues a message of the assistant, but the last one is not one."
        raise Refusal(400, message, param=param)
    tools = _allowed(prompt.tools or (), choice, choice_param)
    return replace(prompt, tools=tools or None, tool_choice=choice.mode if tools else "none", named_tool=choice.name)


def _allowed(tools: Sequence[Mapping[str, Any]], choice: ToolChoice, param: str) -> list[Mapping[str, Any]]:
    names = [str(tool["function"]["name"]) for tool in tools]
    chosen = [] if choice.name is None else [choice.name]
    if unknown := {*chosen, *(choice.allowed or ())} - {*names}:
        message = f"{param} names {_listed(unknown)}; the tools are {_listed(names)}."
        raise Refusal(400, message, param=param)
    are_allowed = [choice.allowed is None or name in choice.allowed for name in names]
    if not any(are_allowed) and choice.mode == "required":
        which = "it allows no tools" if names else "there are no tools"
        raise Refusal(400, f"{param} demands a call, but {which}.", param=param)
    return [tool for tool, is_allowed in zip(tools, are_allowed, strict=True) if is_allowed]


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

"""The settings of an answer that `/v1/responses` writes in objects of their own, and the items that change them.

A conversation may hold items that are not messages: `additional_tools` offers more tools, as the result of a search for
tools does, and `configuration_update` replaces the effort or the form of the text, for all answers that come after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from contract.bodies import LenientBody, read_part
from contract.conversation import history_switches, thinking_arguments
from contract.openai.grammar_fields import format_grammar
from contract.openai.items import Item
from contract.openai.responses_answer import ReasoningContext, Summary
from contract.openai.responses_tools import FlatTool, flat_tools
from interface.requests import Grammar

SETTINGS = ("additional_tools", "configuration_update")
"""The types of items that change settings."""


class TextFormat(LenientBody):
    """The form of the answer's text, with fewer levels than a `response_format` has."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None

    def as_grammar(self) -> Grammar | None:
        """Raises Refusal."""
        return format_grammar(self.type, self.schema_, "text.format.schema")

    def shown(self) -> dict[str, Any]:
        """The format as a response repeats it."""
        if self.type != "json_schema":
            return {"type": self.type}
        return {"name": "answer", **self.model_dump(by_alias=True, exclude_none=True)}


class TextSettings(LenientBody):
    """The form of the answer's text."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = Field(
        default=None, description="Comes back with the response; no model here has been trained to obey it."
    )

    def shown(self) -> dict[str, Any]:
        """The settings as a response repeats them."""
        format = {"type": "text"} if self.format is None else self.format.shown()
        return {"format": format} | self.model_dump(exclude_none=True, include={"verbosity"})


class ReasoningSettings(LenientBody):
    """How much to reason, and how the reasoning is shown."""

    effort: str | None = Field(default=None, description="`none` turns reasoning off where a model can.")
    summary: Literal[Summary, "none"] | None = Field(
        default=None,
        description="`auto`, `concise` and `detailed` show the reasoning as its summary, for clients that read nothing "
        "else; nothing sums it up.",
    )
    generate_summary: Summary | None = Field(default=None, description="An older summary.")
    context: ReasoningContext | None = Field(
        default=None,
        description="Which reasoning of the conversation the model is shown: that since the user's last message, or "
        "all of it, where its template can. `auto` leaves it to the template.",
    )

    @property
    def template_arguments(self) -> dict[str, Any]:
        shown = {} if self.context in (None, "auto") else history_switches(self.context == "all_turns")
        return thinking_arguments(self.effort) | shown

    @property
    def chosen_summary(self) -> Summary | None:
        """The summary that is wanted; None if there is to be none."""
        chosen = self.generate_summary if self.summary is None else self.summary
        return None if chosen == "none" else chosen


class ConfigurationUpdate(LenientBody):
    """Settings that hold from here on; one that is absent stays as it was."""

    reasoning: ReasoningSettings | None = None
    text: TextSettings | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that items may change."""

    tools: Sequence[FlatTool]
    reasoning: ReasoningSettings | None
    text: TextSettings | None

    def after(self, items: Sequence[Item], where: str) -> "Settings":
        """The settings at the end of a conversation; `where` is the place of its items in the body.

        A tool that an item offers takes the place of an earlier one of the same name. Raises Refusal.
        """
        tools = {tool.called_name: tool for tool in self.tools}
        reasoning, text = self.reasoning, self.text
        for number, item in enumerate(items):
            place = f"{where}.{number}"
            match item.get("type"):
                case "additional_tools" | "tool_search_output":
                    more = flat_tools(item.get("tools") or [], f"{place}.tools")
                    tools |= {tool.called_name: tool for tool in more}
                case "configuration_update":
                    update = read_part(ConfigurationUpdate, item, place)
                    reasoning, text = update.reasoning or reasoning, update.text or text
        return Settings([*tools.values()], reasoning, text)

"""The tools of a Messages request, and the choice among them.

A tool is the client's own, with a schema; or one that Anthropic has defined and the client runs, such as its shell,
whose type stands for a schema; or one that runs on Anthropic's servers. The last kind is left out: some clients always
offer a search of the web.

Source: Anthropic's documentation of the bash, text editor and memory tools, and the types of its Python SDK.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from contract.bodies import LenientBody
from contract.refusals import Refusal
from contract.tools import ToolChoice, check_parameters, function_tool

TEXT = {"type": "string"}
NUMBER = {"type": "integer"}
EDITS = {
    "path": TEXT,
    "file_text": {**TEXT, "description": "What a new file holds."},
    "old_str": {**TEXT, "description": "What str_replace replaces."},
    "new_str": {**TEXT, "description": "What str_replace puts in its place."},
    "insert_line": {**NUMBER, "description": "After which line insert adds a text; 0 is before the first."},
    "insert_text": {**TEXT, "description": "The text that insert adds."},
    "view_range": {"type": "array", "items": NUMBER, "description": "The first and the last line to view."},
}


def _commands(*names: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(names)}


CLIENT_TOOLS: Mapping[str, tuple[str, Mapping[str, Any], list[str]]] = {
    "bash": (
        "Runs a command in a shell that stays open.",
        {"command": TEXT, "restart": {"type": "boolean", "description": "Start the shell again, without a command."}},
        [],
    ),
    "text_editor": (
        "Views, creates and edits text files.",
        {"command": _commands("view", "create", "str_replace", "insert"), **EDITS},
        ["command", "path"],
    ),
    "memory": (
        "Keeps notes in files below /memories, from one conversation to the next.",
        {
            "command": _commands("view", "create", "str_replace", "insert", "delete", "rename"),
            **EDITS,
            "old_path": TEXT,
            "new_path": TEXT,
        },
        ["command"],
    ),
}
"""By a type without its date: what the tool does, its parameters, and those that no call lacks."""


class Tool(LenientBody):
    """A function that the model may call. Tools of Anthropic's have a `type`; those that run there are left out."""

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    input_examples: list[dict[str, Any]] | None = Field(
        default=None, description="Shown to the model after the description."
    )
    strict: bool | None = None
    type: str | None = None

    def as_function(self, where: str) -> dict[str, Any]:
        """The tool as chat templates expect it. Raises Refusal."""
        if self.input_schema is not None:
            check_parameters(self.input_schema, f"{where}.input_schema")
            return function_tool(self.name, self._full_description(), self.input_schema, self.strict)
        if (known := CLIENT_TOOLS.get(_family(self.type))) is None:
            raise Refusal(
                400, f"{where}.input_schema: Expected a JSON schema, got none.", param=f"{where}.input_schema"
            )
        description, properties, required = known
        schema = {"type": "object", "properties": properties, "required": required}
        return function_tool(self.name, description, schema)

    def _full_description(self) -> str | None:
        """The description with the examples, for which chat templates have no place of their own."""
        if not self.input_examples:
            return self.description
        examples = [json.dumps(example, ensure_ascii=False) for example in self.input_examples]
        return "\n".join([*filter(None, [self.description]), "Examples of its input:", *examples])


def callable_only(tool: Any) -> Any:
    """Put None for a tool that runs on Anthropic's servers, whose entry may have no name."""
    if tool is None:
        raise ValueError("Expected a tool")
    return None if isinstance(tool, dict) and _runs_elsewhere(tool) else tool


def _runs_elsewhere(tool: Mapping[str, Any]) -> bool:
    kind = tool.get("type")
    return (
        isinstance(kind, str)
        and kind != "custom"
        and tool.get("input_schema") is None
        and _family(kind) not in CLIENT_TOOLS
    )


def _family(kind: str | None) -> str:
    """The name of a tool's type without its date: `bash` for `bash_20250124`."""
    return (kind or "").rpartition("_")[0]


class ToolChoiceSettings(LenientBody):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False

    def as_choice(self) -> ToolChoice:
        """Raises Refusal."""
        match self.type:
            case "tool" if self.name is None:
                raise Refusal(400, "tool_choice: Expected the name of a tool.", param="tool_choice")
            case "tool":
                return ToolChoice(name=self.name)
            case "any":
                return ToolChoice("required")
            case kind:
                return ToolChoice(kind)

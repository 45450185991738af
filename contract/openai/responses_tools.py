"""The tools of a Responses request: functions, custom tools, namespaces, which group both, and tools of OpenAI's.

A model knows functions only. So a custom tool is offered as a function of one text, and a function `get` in the
namespace `crm` as `crm__get`; clients see their own names in the calls. Of OpenAI's tools there are those that clients
run, `contract.openai.client_tools`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain, groupby
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from contract.bodies import LenientBody
from contract.openai.chat_request import Name
from contract.openai.client_tools import CLIENT_TOOLS, client_function
from contract.openai.custom_tools import custom_function
from contract.tools import ToolChoice, function_tool


class Namespace(LenientBody):
    name: Name
    description: str | None = None


class FlatTool(LenientBody):
    """A function that the model may call, a custom tool, whose input is a text, or a tool that OpenAI defines."""

    type: Literal["function", "custom", "shell", "local_shell", "apply_patch"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: dict[str, Any] | None = Field(
        default=None, description="Of a custom tool's input. `regex` is enforced, a grammar in Lark only shown."
    )
    environment: dict[str, Any] | None = Field(default=None, description="Of a shell.")
    namespace: Namespace | None = None

    @property
    def is_of_openai(self) -> bool:
        return self.type in CLIENT_TOOLS

    @property
    def is_custom(self) -> bool:
        return self.type == "custom"

    @property
    def namespace_name(self) -> str | None:
        return None if self.namespace is None else self.namespace.name

    @property
    def called_name(self) -> str:
        """The name by which the model calls the tool."""
        return called_name(self.name, self.namespace_name)

    def as_function(self) -> dict[str, Any]:
        """The tool as chat templates expect it."""
        if self.is_of_openai:
            return client_function(self.name)
        of_namespace = None if self.namespace is None else self.namespace.description
        description = "\n\n".join(filter(None, [of_namespace, self.description])) or None
        if self.is_custom:
            return custom_function(self.called_name, description, self.format)
        return function_tool(self.called_name, description, self.parameters, self.strict)

    def shown(self) -> dict[str, Any]:
        """The tool as a response repeats it."""
        if self.is_of_openai:
            return self.model_dump(exclude_none=True, include={"type", "environment"})
        absent = {} if self.is_custom else {"strict": None, "parameters": None}
        return absent | self.model_dump(exclude_none=True, exclude={"namespace"})


def called_name(name: str, namespace: str | None) -> str:
    """The name by which the model calls a tool of a namespace, or of none."""
    return name if namespace is None else f"{namespace}__{name}"


def shown_tools(tools: Iterable[FlatTool]) -> list[dict[str, Any]]:
    """The tools as a response repeats them, again in their namespaces."""
    shown: list[dict[str, Any]] = []
    for namespace, group in groupby(tools, key=lambda tool: tool.namespace):
        group_tools = [tool.shown() for tool in group]
        if namespace is None:
            shown += group_tools
        else:
            shown.append({"type": "namespace", **namespace.model_dump(exclude_none=True), "tools": group_tools})
    return shown


def as_called(choice: ToolChoice, tools: Sequence[FlatTool]) -> ToolChoice:
    """A choice among tools by the names by which the model calls them. A namespace stands for all its tools."""

    def called(name: str) -> list[str]:
        return [tool.called_name for tool in tools if name in (tool.name, tool.namespace_name)] or [name]

    return replace(
        choice,
        name=None if choice.name is None else called(choice.name)[0],
        allowed=None if choice.allowed is None else [*chain.from_iterable(map(called, choice.allowed))],
    )


def _flat(tools: Any) -> Any:
    """Put the tools of namespaces next to the others, and leave out those that run on OpenAI's servers.

    Some clients always offer these, a web search for example.
    """
    return [inner for tool in tools for inner in _tools_in(tool)] if isinstance(tools, list) else tools


def _tools_in(tool: Any) -> list[Any]:
    match tool:
        case {"type": "namespace", "tools": list(inner)}:
            namespace = {name: tool.get(name) for name in ("name", "description")}
            return [member | {"namespace": namespace} if isinstance(member, dict) else member for member in inner]
        case {"type": "function" | "custom" | "namespace"}:
            return [tool | {"namespace": None}]
        case {"type": "shell", "environment": {"type": str(place)}} if place != "local":
            return []
        case {"type": "shell" | "local_shell" | "apply_patch" as type}:
            return [{"type": type, "name": type, "environment": tool.get("environment")}]
        case dict():
            return []
    return [tool]


FlatTools = Annotated[list[FlatTool], BeforeValidator(_flat, json_schema_input_type=list[dict[str, Any]])]

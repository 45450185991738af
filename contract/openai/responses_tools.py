"""The tools of a Responses request: functions, custom tools, namespaces, which group both, and tools of OpenAI's.

A model knows functions only. So a custom tool is offered as a function of one text, and a function `get` in the
namespace `crm` as `crm__get`; clients see their own names in the calls. Of OpenAI's tools there are those that clients
run, `contract.openai.client_tools`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from contract.bodies import LenientBody, read_part
from contract.openai.chat_request import Name
from contract.openai.client_tools import CLIENT_TOOLS, client_function
from contract.openai.custom_tools import FORMAT, InputFormat, custom_function
from contract.refusals import Refusal
from contract.requests import shortened
from contract.tools import ToolChoice, check_parameters, function_tool


class Namespace(LenientBody):
    name: Name
    description: str | None = None


class OfferedNamespace(Namespace):
    tools: list[dict[str, Any]]


class FlatTool(LenientBody):
    """A function that the model may call, a custom tool, whose input is a text, or a tool that OpenAI defines."""

    type: Literal["function", "custom", "shell", "local_shell", "apply_patch"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: InputFormat | None = Field(default=None, description=FORMAT)
    environment: dict[str, Any] | None = Field(default=None, description="Of a shell.")
    namespace: Namespace | None = None
    place: str = Field(description="Where the tool is in the body or the item that offers it.")

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
        """The tool as chat templates expect it. Raises Refusal."""
        if self.is_of_openai:
            return client_function(self.name)
        of_namespace = None if self.namespace is None else self.namespace.description
        description = "\n\n".join(filter(None, [of_namespace, self.description])) or None
        if self.is_custom:
            return custom_function(self.called_name, description, self.format)
        check_parameters(self.parameters, f"{self.place}.parameters")
        return function_tool(self.called_name, description, self.parameters, self.strict)

    def shown(self) -> dict[str, Any]:
        """The tool as a response repeats it."""
        if self.is_of_openai:
            return self.model_dump(exclude_none=True, include={"type", "environment"})
        absent = {} if self.is_custom else {"strict": None, "parameters": None}
        return absent | self.model_dump(exclude_none=True, exclude={"namespace", "place"})


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


def flat_tools(tools: Any, where: str) -> list[FlatTool]:
    """Read a list of tools, those of namespaces among the others, without those that run on OpenAI's servers.

    Some clients always offer these, a web search for example.

    Args:
        tools: the field of the body or of an item.
        where: its place in the body.

    Raises:
        Refusal: 400, it is no list of tools.
    """
    if not isinstance(tools, list):
        raise Refusal(400, f"{where}: Expected a list of tools, got {shortened(tools)!r}.", param=where)
    return [inner for number, tool in enumerate(tools) for inner in _tools_in(tool, f"{where}.{number}")]


def _tools_in(tool: Any, place: str) -> Iterator[FlatTool]:
    """Raises Refusal."""
    match tool:
        case {"type": "namespace"}:
            offered = read_part(OfferedNamespace, tool, place)
            namespace = offered.model_dump(exclude={"tools"})
            for number, inner in enumerate(offered.tools):
                where = f"{place}.tools.{number}"
                yield read_part(FlatTool, inner | {"namespace": namespace, "place": where}, where)
        case {"type": "shell", "environment": {"type": str(kind)}} if kind != "local":
            return
        case {"type": "shell" | "local_shell" | "apply_patch" as type}:
            known = {"type": type, "name": type, "environment": tool.get("environment"), "place": place}
            yield read_part(FlatTool, known, place)
        case {"type": "function" | "custom"}:
            yield read_part(FlatTool, tool | {"namespace": None, "place": place}, place)
        case {"type": str()}:
            return
        case _:
            raise Refusal(400, f"{place}: Expected a tool with its type, got {shortened(tool)!r}.", param=place)


FlatTools = Annotated[
    list[FlatTool],
    BeforeValidator(lambda tools: flat_tools(tools, "tools"), json_schema_input_type=list[dict[str, Any]]),
]

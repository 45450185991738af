"""Tools of the Responses API that OpenAI defines and clients run: two shells, and an editor that applies patches.

A model is offered them as functions of the same name. A call becomes an item of a type of its own, such as
`shell_call`; if its arguments are not those of the tool, it stays a function call. Tools that run on OpenAI's servers
are none of these: a search of the web, or a shell in a container.

Source: OpenAI's guides to the shell and apply_patch tools, and the types of its Python SDK.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from contract.answers import Wire
from contract.refusals import Refusal
from contract.tools import function_tool, tool_call

CallStatus = Literal["in_progress", "completed", "incomplete"]
TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT}
TIMEOUT = {"type": "integer", "description": "Stop after this many milliseconds."}


@dataclass(frozen=True, slots=True)
class ShellAction(Wire):
    commands: list[str]
    timeout_ms: int | None = None
    max_output_length: int | None = None


@dataclass(frozen=True, slots=True)
class ShellCall(Wire):
    """Commands for a shell, which the client runs."""

    type: Literal["shell_call"]
    id: str
    call_id: str
    action: ShellAction
    status: CallStatus


@dataclass(frozen=True, slots=True)
class LocalShellAction(Wire):
    type: Literal["exec"]
    command: list[str]
    env: dict[str, str]
    timeout_ms: int | None = None
    working_directory: str | None = None


@dataclass(frozen=True, slots=True)
class LocalShellCall(Wire):
    """A command of the older local shell: a program and its arguments."""

    type: Literal["local_shell_call"]
    id: str
    call_id: str
    action: LocalShellAction
    status: CallStatus


@dataclass(frozen=True, slots=True)
class PatchedFile(Wire):
    type: Literal["create_file", "update_file"]
    path: str
    diff: str


@dataclass(frozen=True, slots=True)
class DeletedFile(Wire):
    type: Literal["delete_file"]
    path: str


@dataclass(frozen=True, slots=True)
class PatchCall(Wire):
    """A change of a file, which the client makes."""

    type: Literal["apply_patch_call"]
    id: str
    call_id: str
    operation: PatchedFile | DeletedFile
    status: CallStatus


ClientCall = ShellCall | LocalShellCall | PatchCall
_CALL: TypeAdapter[ClientCall] = TypeAdapter(ClientCall)


@dataclass(frozen=True, slots=True)
class ClientTool:
    """What a model is told about a tool, and what a client sees of its calls."""

    description: str
    properties: Mapping[str, Any]
    required: Sequence[str]
    call: type[ClientCall]
    arguments_field: str
    """The field of a call that holds its arguments."""
    id_prefix: str
    constants: Mapping[str, Any] = field(default_factory=dict)
    """What that field holds in addition."""


CLIENT_TOOLS: Mapping[str, ClientTool] = {
    "shell": ClientTool(
        "Runs commands in a shell, one after the other.",
        {
            "commands": TEXTS,
            "timeout_ms": TIMEOUT,
            "max_output_length": {"type": "integer", "description": "Show this many characters of each output."},
        },
        ["commands"],
        ShellCall,
        "action",
        "sh",
    ),
    "local_shell": ClientTool(
        "Runs a program.",
        {
            "command": {**TEXTS, "description": "The program and its arguments."},
            "env": {"type": "object", "additionalProperties": TEXT, "description": "Environment variables."},
            "working_directory": TEXT,
            "timeout_ms": TIMEOUT,
        },
        ["command"],
        LocalShellCall,
        "action",
        "lsh",
        {"type": "exec", "env": {}},
    ),
    "apply_patch": ClientTool(
        "Creates, changes or deletes a file.",
        {
            "type": {**TEXT, "enum": ["create_file", "update_file", "delete_file"]},
            "path": TEXT,
            "diff": {
                **TEXT,
                "description": "Every line of a new file after a '+'. For an update: after a line '@@', lines that "
                "stay after a space, lines to remove after a '-', and lines to add after a '+'.",
            },
        },
        ["type", "path"],
        PatchCall,
        "operation",
        "apc",
    ),
}
"""By their types, which are the names by which the model calls them."""


def client_function(name: str) -> dict[str, Any]:
    """A tool as chat templates expect it."""
    tool = CLIENT_TOOLS[name]
    schema = {"type": "object", "properties": tool.properties, "required": list(tool.required)}
    return function_tool(name, tool.description, schema)


def client_call(name: str, id: str, call_id: str, arguments: str, status: CallStatus) -> ClientCall:
    """A call of a tool as clients see it.

    Raises:
        ValueError: the arguments are not those of the tool, or not whole.
    """
    tool, read = CLIENT_TOOLS[name], from_json(arguments)
    if not isinstance(read, dict):
        raise ValueError("expected an object")
    known = {argument: read[argument] for argument in tool.properties if read.get(argument) is not None}
    if known.get("type") == "delete_file":
        known.pop("diff", None)
    fields = {"type": f"{name}_call", "id": id, "call_id": call_id, "status": status}
    return _CALL.validate_json(to_json(fields | {tool.arguments_field: {**tool.constants, **known}}))


def call_of_item(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A call that the assistant has made, in the form that chat templates expect. Raises Refusal."""
    name = str(item["type"]).removesuffix("_call")
    tool = CLIENT_TOOLS[name]
    call_id, arguments = item.get("call_id"), item.get(tool.arguments_field)
    if not isinstance(call_id, str) or not isinstance(arguments, dict):
        raise Refusal(400, f"{where}: Expected a call_id and an object {tool.arguments_field!r}.", param=where)
    known = {key: arguments[key] for key in tool.properties if arguments.get(key) not in (None, {})}
    try:
        client_call(name, "", call_id, to_json(known).decode(), "completed")
    except ValueError:
        place = f"{where}.{tool.arguments_field}"
        raise Refusal(400, f"{place}: Expected the arguments of {name}, got others.", param=place) from None
    return tool_call(call_id, name, known)


def result_of_item(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a call led to, as a message in the form of chat templates. Raises Refusal."""
    call_id = item.get("call_id", item.get("id"))  # the local shell's has no call_id
    if not isinstance(call_id, str):
        raise Refusal(400, f"{where}.call_id: Expected the id of a call.", param=f"{where}.call_id")
    output = item.get("output", "")
    content = output if isinstance(output, str) else _shown_outputs(output, f"{where}.output")
    if item.get("status") == "failed":  # templates have no field for it
        content = f"Error: {content}"
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def _shown_outputs(outputs: Any, where: str) -> str:
    """What commands wrote, and how they ended. Raises Refusal."""
    if not isinstance(outputs, list):
        raise Refusal(400, f"{where}: Expected a text or a list of outputs.", param=where)
    lines: list[str] = []
    for number, output in enumerate(outputs):
        match output:
            case {"stdout": str(stdout), "stderr": str(stderr)}:
                lines += filter(None, [stdout, stderr, _shown_outcome(output.get("outcome"))])
            case _:
                place = f"{where}.{number}"
                raise Refusal(400, f"{place}: Expected an output with stdout and stderr.", param=place)
    return "\n".join(lines)


def _shown_outcome(outcome: Any) -> str:
    match outcome:
        case {"type": "exit", "exit_code": int(code)}:
            return f"Exit code: {code}"
        case {"type": "timeout"}:
            return "Timed out."
    return ""

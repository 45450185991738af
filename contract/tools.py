"""Tools, their calls and the choice among them, in the form that chat templates expect."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import from_json

from contract.refusals import Refusal
from contract.requests import shortened

NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


def function_tool(
    name: str, description: str | None, parameters: Mapping[str, Any] | None, strict: bool | None = None
) -> dict[str, Any]:
    """A tool in the form that chat templates expect. `parameters` is a JSON schema."""
    function: dict[str, Any] = {"name": name}
    if description is not None:
        function["description"] = description
    function["parameters"] = dict(parameters or NO_PARAMETERS)
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


def check_parameters(schema: Mapping[str, Any], where: str) -> None:
    """Check that the schema of a tool's arguments is that of an object. Raises Refusal."""
    types = schema.get("type", "object")
    if "object" not in (types if isinstance(types, list) else [types]):
        message = f"{where}: Expected a schema of type 'object' for the parameters, got {shortened(types)!r}."
        raise Refusal(400, message, param=where)


def tool_call(call_id: str | None, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A call that the assistant has made, in the form that chat templates expect."""
    call = {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}
    return call if call_id is None else {"id": call_id, **call}


def arguments_of(text: Any, param: str) -> dict[str, Any]:
    """Parse a call's arguments, which are a JSON object as text; an empty text means none.

    They are read as strictly as the body itself: without NaN, and without halves of surrogate pairs.

    Raises:
        Refusal: 400, it is something else.
    """
    try:
        arguments = from_json(text or "{}", allow_inf_nan=False) if isinstance(text, str) else None
        reason = ""
    except ValueError as error:
        arguments, reason = None, f" ({error})"
    if not isinstance(arguments, dict):
        raise Refusal(400, f"{param}: Expected a JSON object as text; got {shortened(text)!r}{reason}.", param=param)
    return arguments


def are_whole(arguments: Iterable[str]) -> bool:
    """Whether the pieces of a call's arguments are all there: a stop string may have ended the text within them."""
    try:
        from_json("".join(arguments))
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools the model may or must call. `name` forces a call of that one; `allowed` hides all others."""

    mode: Literal["none", "auto", "required"] = "auto"
    name: str | None = None
    allowed: Sequence[str] | None = None

    @property
    def forces_a_call(self) -> bool:
        return self.mode == "required" or self.name is not None


FREE_CHOICE = ToolChoice()
"""The model decides."""

"""Tools, their calls and the choice among them, in the form that chat templates expect."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import from_json

from contract.refusals import Refusal
from contract.requests import shortened

NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
ENDS_EARLY = "EOF while parsing"
"""How pydantic's parser begins its complaint about a text that is the beginning of JSON."""
UNREADABLE = "arguments"
"""The name of the only argument of a call whose arguments cannot be read."""


def function_tool(
    name: str, description: str | None, parameters: Mapping[str, Any] | None, strict: bool | None = None
) -> dict[str, Any]:
    """A tool in the form that chat templates expect. `parameters` is a JSON schema, in which null means absent."""
    function: dict[str, Any] = {"name": name}
    if description is not None:
        function["description"] = description
    function["parameters"] = {name: value for name, value in (parameters or NO_PARAMETERS).items() if value is not None}
    if strict is not None:
        function["strict"] = strict
    return {"type": "function", "function": function}


def check_parameters(schema: Mapping[str, Any] | None, where: str) -> None:
    """Check that the schema of a tool's arguments, at the place `where` of a body, is an object's. Raises Refusal."""
    types = (schema or NO_PARAMETERS).get("type", "object")
    if "object" not in (types if isinstance(types, list) else [types]):
        message = f"{where}: Expected a schema of type 'object' for the parameters, got {shortened(types)!r}."
        raise Refusal(400, message, param=where)


def tool_call(call_id: str | None, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A call that the assistant has made, in the form that chat templates expect."""
    call = {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}
    return call if call_id is None else {"id": call_id, **call}


def arguments_of(text: Any, param: str) -> dict[str, Any]:
    """Return the arguments of a call that comes back with a conversation. Raises Refusal: 400, they are no text."""
    if not isinstance(text, str):
        raise _no_object(text, param)
    return arguments_in(text, "trailing-strings")


def arguments_in(text: str, partial: Literal[True, "trailing-strings"]) -> dict[str, Any]:
    """Read a call's arguments, which are a JSON object as text; an empty text means none.

    A model does not always write one, and clients send back what it wrote, with the error of the call: if that were
    refused, the conversation could not go on. A call that was cut off has the arguments that are there; `partial` says
    whether a string may be one of them before its end. A text that is no object is itself the only argument.
    """
    try:
        found = _read(text.strip() or "{}", partial)
    except ValueError:
        return {UNREADABLE: text}
    return found if isinstance(found, dict) else {UNREADABLE: text}


def object_of(text: str, param: str) -> dict[str, Any]:
    """Parse a JSON object that is written as text. Raises Refusal: 400, it is something else."""
    try:
        found, reason = from_json(text, allow_inf_nan=False), ""
    except ValueError as error:
        found, reason = None, f" ({error})"
    if not isinstance(found, dict):
        raise _no_object(text, param, reason)
    return found


def _no_object(came: Any, param: str, reason: str = "") -> Refusal:
    message = f"{param}: Expected a JSON object as text; got {shortened(came)!r}{reason}."
    return Refusal(400, message, param=param)


def _read(text: str, partial: Literal[True, "trailing-strings"]) -> Any:
    """Parse as strictly as the body itself: without NaN, and without halves of surrogate pairs. Raises ValueError."""
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        if not str(error).startswith(ENDS_EARLY):
            raise
        return from_json(text, allow_inf_nan=False, allow_partial=partial)


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

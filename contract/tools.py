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
    """Parse a call's arguments, which are a JSON object as text; an empty text means none.

    A call that `max_tokens` has cut off has the arguments that are there: clients send it back with its error, and if
    it were refused, the conversation could not go on.

    Raises:
        Refusal: 400, it is something else.
    """
    is_empty = isinstance(text, str) and not text.strip()
    return _object_of("{}" if is_empty else text, param, may_end_early=True)


def object_of(text: Any, param: str) -> dict[str, Any]:
    """Parse a JSON object that is written as text. Raises Refusal: 400, it is something else."""
    return _object_of(text, param, may_end_early=False)


def _object_of(text: Any, param: str, *, may_end_early: bool) -> dict[str, Any]:
    try:
        found, reason = _read(text, may_end_early) if isinstance(text, str) else None, ""
    except ValueError as error:
        found, reason = None, f" ({error})"
    if not isinstance(found, dict):
        raise Refusal(400, f"{param}: Expected a JSON object as text; got {shortened(text)!r}{reason}.", param=param)
    return found


def _read(text: str, may_end_early: bool) -> Any:
    """Parse as strictly as the body itself: without NaN, and without halves of surrogate pairs. Raises ValueError."""
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        if not (may_end_early and str(error).startswith(ENDS_EARLY)):
            raise
        return from_json(text, allow_inf_nan=False, allow_partial="trailing-strings")


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

"""Reads the body of a request in the manner of the OpenAI and Anthropic APIs.

In these APIs `null` means absent, unknown fields are ignored, and an error is one message that names the field. A known
field that this server cannot honour is refused by name (`refuse`): to ignore it silently would make the answer wrong.
(`POST /generate` is stricter, and lists all errors.)
"""

import re
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from contract.refusals import Refusal
from contract.requests import shortened

IN_UNION = re.compile(r"(str|list)(\[.*\])?")
"""The part of pydantic's error location that is one type of a union, and not a field."""
MAX_PROBLEMS = 3
"""Problems that one message names."""


def show_that_null_is_absent(schema: dict[str, Any]) -> None:
    """Say in the OpenAPI document that every optional field may be null."""
    for name, field in schema.get("properties", {}).items():
        is_nullable = {"type": "null"} in field.get("anyOf", ()) or field.get("type") == "null"
        if name in schema.get("required", ()) or is_nullable:
            continue
        described = {key: field.pop(key) for key in ("description", "title", "default") if key in field}
        options = field.pop("anyOf") if set(field) == {"anyOf"} else [dict(field)]
        field.clear()
        field |= {"anyOf": [*options, {"type": "null"}], **described}


class LenientBody(BaseModel):
    """A body, or an object in one: `null` is absent, unknown fields are ignored, and types are as JSON has them."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, strict=True, allow_inf_nan=False, json_schema_extra=show_that_null_is_absent
    )

    @model_validator(mode="before")
    @classmethod
    def _read_as_json(cls, fields: Any) -> Any:
        """Drop fields that are null. JSON has one kind of number, so 1.0 counts as an integer."""
        if isinstance(fields, dict):
            return {name: _integer(value) for name, value in fields.items() if value is not None}
        return fields


def _integer(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Body = TypeVar("Body", bound=BaseModel)


def refuse(reason: str, *harmless: Any) -> BeforeValidator:
    """Refuse a field that cannot be honoured, unless its value is one that changes nothing.

    suffix: Annotated[None, refuse("this model cannot fill in the middle", "")] = None
    """

    def check(value: Any) -> None:
        if not any(
            type(value) is type(neutral) and value == neutral for neutral in harmless
        ):  # in Python, 0 equals False
            raise ValueError(reason)

    return BeforeValidator(check, json_schema_input_type=Literal[harmless] if harmless else None)


def read_body(type: type[Body], body: bytes) -> Body:
    """Parse and check a body.

    Raises:
        Refusal: 400, with the first `MAX_PROBLEMS` problems.
    """
    try:
        return type.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from None


def read_part(type: type[Body], part: Any, where: str) -> Body:
    """Check a part of a body that could not be checked with the whole; `where` is its place there.

    Raises:
        Refusal: 400, as for a whole body, naming the places within the part.
    """
    try:
        return type.model_validate(part)
    except ValidationError as error:
        raise invalid(error, where) from None


def invalid(error: ValidationError, *where: str) -> Refusal:
    """Return the refusal of a body, or of its part at a place, with the problems that pydantic found."""
    problems = error.errors(include_url=False, include_context=False)
    messages = [
        _sentence((*where, *problem["loc"]), problem["msg"], problem["input"]) for problem in problems[:MAX_PROBLEMS]
    ]
    if len(problems) > MAX_PROBLEMS:
        messages.append(f"{len(problems) - MAX_PROBLEMS} more problems")
    return Refusal(400, "; ".join(messages), param=_name((*where, *problems[0]["loc"])) or None)


def check_model(model: str | None, served: Sequence[str]) -> str:
    """Return the name of the model that a request gets, the default one if it names none.

    Raises:
        Refusal: 404, naming the models that are served.
    """
    if model is None:
        return served[0]
    if model not in served:
        known = ", ".join(served)
        message = f"The model {str(shortened(model))!r} does not exist here. Served: {known}."
        raise Refusal(404, message, param="model", code="model_not_found")
    return model


def _sentence(location: tuple[int | str, ...], message: str, value: Any) -> str:
    name, message = _name(location), message.removeprefix("Value error, ")
    came = shortened(value)
    shown = "" if isinstance(value, dict | list) else f", got {came!r}"
    return f"{name}: {message}{shown}" if name else f"The body is not valid: {message}"


def _name(location: tuple[int | str, ...]) -> str:
    return ".".join(part for key in location if not IN_UNION.fullmatch(part := str(shortened(key))))

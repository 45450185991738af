"""Makes values of the types that the SDKs give to requests: each with its required fields only."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Required, Union, get_args, get_origin

import typing_extensions
from typing_extensions import is_typeddict

REQUIRED: tuple[Any, ...] = (Required, typing_extensions.Required)
TRANSPARENT: tuple[Any, ...] = (Annotated, *REQUIRED)
SCALARS: dict[Any, Any] = {str: "x", int: 1, float: 1.0, bool: True, object: {}}


def samples_of(kind: Any) -> Iterator[Any]:
    """A value of each member of a union of types."""
    kind = _bare(kind)
    if get_origin(kind) is Union:
        for member in get_args(kind):
            yield from samples_of(member)
    elif is_typeddict(kind):
        yield sample_of(kind)


def sample_of(kind: Any) -> Any:
    """A value of a type: of a union the first member, of a list one element, of an object what is required."""
    kind = _bare(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        hints = typing_extensions.get_type_hints(kind, include_extras=True)
        return {name: sample_of(hint) for name, hint in hints.items() if get_origin(hint) in REQUIRED}
    if origin is Literal:
        return arguments[0]
    if origin is Union:
        return sample_of(arguments[0])
    if origin is dict:
        return {}
    if arguments:
        return [sample_of(arguments[0])]
    return SCALARS[kind]


def _bare(kind: Any) -> Any:
    while get_origin(kind) in TRANSPARENT:
        kind = get_args(kind)[0]
    return kind

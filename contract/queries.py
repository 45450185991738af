"""Reads the query of a URL, in the manner of `contract.bodies`."""

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ValidationError

from contract.bodies import Body, invalid
from contract.refusals import Refusal

MAX_PARAMETERS = 100
NESTED = re.compile(r"(?P<object>\w+)\[(?P<name>[^\[\]]*)\]")
"""A name in an object, as OpenAPI's style "deepObject" writes it."""


def read_query(type: type[Body], query: bytes) -> Body:
    """Parse and check a URL's query. Of a parameter that is given twice, the last counts; unknown ones are ignored.
    An empty value is a value like others.

    `a[b]=c` is the object `a` with a `b`.

    Raises:
        Refusal: 400, with the first `MAX_PROBLEMS` problems.
    """
    try:
        parameters = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
        return type.model_validate_strings(_nested(parameters))
    except ValidationError as error:
        raise invalid(error) from None
    except ValueError:
        raise Refusal(400, f"Expected at most {MAX_PARAMETERS} parameters in the URL's query, got more") from None


def _nested(parameters: Iterable[tuple[str, str]]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in parameters:
        if (found := NESTED.fullmatch(name)) is None:
            nested[name] = value
        elif isinstance(known := nested.setdefault(found["object"], {}), dict):
            known[found["name"]] = value
    return nested

"""Finds the endpoints of a path, for the doors that have no router. It does so as Starlette's router does.

But a path without a name in it comes before those with one, as OpenAPI has it ("Paths Object"): GET
/v1/responses/input_tokens, which takes only POST, does not ask for a response of that name. `parse` refuses it where a
router has taken it for that.
"""

import re
from dataclasses import replace
from functools import cache

from contract import parsing
from contract.endpoints import Call, Endpoint, Incoming, Question
from contract.refusals import no_such_method
from contract.table import ENDPOINTS

NAME = re.compile(r"\\\{(?P<name>\w+)(?P<may_have_slashes>:path)?\\\}")
"""A name in a path, as `re.escape` writes it."""


def endpoints_at(path: str) -> dict[str, Endpoint]:
    """The endpoints of a path by their methods; of several with one method, the first in the table. HEAD is GET."""
    by_method: dict[str, Endpoint] = {}
    exact = [endpoint for endpoint in ENDPOINTS if endpoint.path == path]
    for endpoint in exact or [endpoint for endpoint in ENDPOINTS if _pattern(endpoint.path).fullmatch(path)]:
        by_method.setdefault(endpoint.method, endpoint)
    return by_method | {"HEAD": by_method["GET"]} if "GET" in by_method else by_method


def parse(endpoint: Endpoint, incoming: Incoming) -> Call | Question:
    """Parse and check a request.

    Raises:
        Refusal: its method is not one of its path, or `contract.parsing.parse` raises it.
    """
    methods = {other.method for other in ENDPOINTS if other.path == incoming.path}
    if methods and endpoint.method not in methods:
        raise no_such_method(methods)
    match = _pattern(endpoint.path).fullmatch(incoming.path)
    names = {} if match is None else match.groupdict()
    incoming = replace(incoming, name=names.get("name", ""), item=names.get("item", ""))
    return parsing.parse(endpoint, incoming)


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(NAME.sub(_named_group, re.escape(path)))


def _named_group(name: re.Match[str]) -> str:
    return f"(?P<{name['name']}>{'.*' if name['may_have_slashes'] else '[^/]+'})"

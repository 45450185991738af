"""Finds the endpoints of a path, for the doors that have no router. It does so as Starlette's router does.

But a path without a name in it comes before those with one, as OpenAPI has it ("Paths Object"): GET
/v1/responses/input_tokens, which takes only POST, does not ask for a response of that name. `parse` refuses it where a
router has taken it for that.
"""

import re
from functools import cache

from contract import parsing
from contract.endpoints import Call, Endpoint, Incoming, Question
from contract.refusals import no_such_method
from contract.table import ENDPOINTS

NAMES = {r"\{name\}": "(?P<name>[^/]+)", r"\{name:path\}": "(?P<name>.*)"}
"""The expression for each form of a name in a path, by that form as `re.escape` writes it."""


def endpoints_at(path: str) -> dict[str, Endpoint]:
    """The endpoints of a path by their methods; of several with one method, the first in the table. HEAD is GET."""
    found: dict[str, Endpoint] = {}
    exact = [endpoint for endpoint in ENDPOINTS if endpoint.path == path]
    for endpoint in exact or [endpoint for endpoint in ENDPOINTS if _pattern(endpoint.path).fullmatch(path)]:
        found.setdefault(endpoint.method, endpoint)
    return found | {"HEAD": found["GET"]} if "GET" in found else found


def name_in(path: str, endpoint: Endpoint) -> str:
    """The name that a path of an endpoint has in it, or an empty string."""
    found = _pattern(endpoint.path).fullmatch(path)
    return "" if found is None else found.groupdict().get("name", "")


def parse(endpoint: Endpoint, incoming: Incoming) -> Call | Question:
    """Parse and check a request.

    Raises:
        Refusal: its method is not one of its path, or `contract.parsing.parse` raises it.
    """
    path = endpoint.shown_path.replace("{name}", incoming.name)
    methods = {other.method for other in ENDPOINTS if other.path == path}
    if methods and endpoint.method not in methods:
        raise no_such_method(methods)
    return parsing.parse(endpoint, incoming)


@cache
def _pattern(path: str) -> re.Pattern[str]:
    expression = re.escape(path)
    for form, its_expression in NAMES.items():
        expression = expression.replace(form, its_expression)
    return re.compile(expression)

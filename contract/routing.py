"""Finds the endpoints of a path, for the doors that have no router. It does so as Starlette's router does."""

import re
from functools import cache

from contract.endpoints import Endpoint
from contract.table import ENDPOINTS

NAMES = {r"\{name\}": "(?P<name>[^/]+)", r"\{name:path\}": "(?P<name>.*)"}
"""The expression for each form of a name in a path, by that form as `re.escape` writes it."""


def endpoints_at(path: str) -> dict[str, Endpoint]:
    """The endpoints of a path by their methods; of several with one method, the first in the table. HEAD is GET."""
    found: dict[str, Endpoint] = {}
    for endpoint in ENDPOINTS:
        if _pattern(endpoint).fullmatch(path):
            found.setdefault(endpoint.method, endpoint)
    return found | {"HEAD": found["GET"]} if "GET" in found else found


def name_in(path: str, endpoint: Endpoint) -> str:
    """The name that a path of an endpoint has in it, or an empty string."""
    found = _pattern(endpoint).fullmatch(path)
    return "" if found is None else found.groupdict().get("name", "")


def _pattern(endpoint: Endpoint) -> re.Pattern[str]:
    return _compiled(endpoint.path)


@cache
def _compiled(path: str) -> re.Pattern[str]:
    expression = re.escape(path)
    for form, its_expression in NAMES.items():
        expression = expression.replace(form, its_expression)
    return re.compile(expression)

"""Shared by the clients' programs: tries something and reports the result. Needs only Python."""

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

BASE, MODEL = [*sys.argv[1:], "", ""][:2]
"""The server's address, without a slash at its end, and the model's name."""
V1 = f"{BASE}/v1"
QUESTION = "What is 2 + 2?"
ADDRESS = {
    "type": "object",
    "properties": {"street": {"type": "string", "maxLength": 20}, "number": {"type": "integer"}},
    "required": ["street", "number"],
    "additionalProperties": False,
}
"""A schema that an answer must follow."""


def check(what: str, attempt: Callable[[], Any]) -> None:
    """Print one line: whether the attempt went through, and what it returned or raised."""
    try:
        note, passed = str(attempt()), True
    except Exception as error:
        note, passed = f"{type(error).__name__}: {error}", False
        traceback.print_exc()
    print(json.dumps({"what": what, "passed": passed, "note": note[:200]}), flush=True)


def expect(condition: bool, what: str) -> None:
    """Raise unless a client got what it should have got."""
    if not condition:
        raise AssertionError(f"expected {what}")


def expect_json(text: str) -> Any:
    """Return an answer's JSON, which must follow `ADDRESS`."""
    found = json.loads(text)
    expect(set(found) == {"street", "number"} and isinstance(found["number"], int), f"an address, got {text}")
    return found

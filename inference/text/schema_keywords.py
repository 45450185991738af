"""Writes keywords of a JSON schema that llguidance does not know by those that it does.

Libraries such as Zod and Pydantic put notes into their schemas: a name of their own for a kind of text, next to the
pattern that it must match, or that the names of an object's properties are texts.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from inference.text.grammar_limits import referred_to
from inference.text.narrowed_schemas import Schema, alike, subschemas

FORMATS = frozenset(
    [
        *("date", "date-time", "duration", "email", "hostname", "idn-email", "idn-hostname", "ipv4", "ipv6", "iri"),
        *("iri-reference", "json-pointer", "regex", "relative-json-pointer", "time", "uri", "uri-reference"),
        *("uri-template", "uuid"),
    ]
)
"""Those that JSON Schema defines. Any other demands nothing of a text."""
NOTES = frozenset({"title", "description", "type"})
"""Keywords that demand nothing of a name, which is a text in any case."""
SAYS_WHICH_NAMES = frozenset({"properties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"})
"""Keywords next to which the names of properties cannot be written in another way."""
LOOKS_AROUND = re.compile(r"\(\?<?[=!]|\\[1-9]")
"""What is in a pattern that looks ahead or behind, or refers to an earlier group."""


def in_known_keywords(schema: Mapping[str, Any], *, lenient: bool = False) -> Schema:
    """Return a copy that demands the same. Raises ValueError: it is over a limit.

    Args:
        schema: what came in the request.
        lenient: leave out patterns that no text can be held to while it is generated.
    """
    copy: Schema = json.loads(json.dumps(schema))
    for part in reversed([*subschemas(copy)]):  # those within others first, as the limit of `alike` expects
        if isinstance(part.get("format"), str) and part["format"] not in FORMATS:
            del part["format"]
        if part.get("uniqueItems") is False:
            del part["uniqueItems"]
        if lenient and LOOKS_AROUND.search(str(part.get("pattern"))):
            del part["pattern"]
        if "propertyNames" in part:
            _write_names(part, copy)
    return copy


def _write_names(part: Schema, root: Schema) -> None:
    """Make properties of the names that an object may have; or say which pattern they match."""
    names = part["propertyNames"]
    if isinstance(names, dict) and "$ref" in names:
        names = referred_to(root, str(names["$ref"]))
    if not isinstance(names, dict) or names.get("type", "string") != "string":
        return
    demanded = {keyword: value for keyword, value in names.items() if keyword not in NOTES}
    value_schema = part.get("additionalProperties", {})
    written: Schema = {}
    if demanded:
        if len(demanded) > 1 or part.keys() & SAYS_WHICH_NAMES:
            return
        match demanded:
            case {"enum": [*listed]}:
                written = {"properties": alike([name for name in listed if isinstance(name, str)], value_schema)}
            case {"pattern": str(pattern)}:
                written = {"patternProperties": {pattern: value_schema}}
            case _:
                return
        written["additionalProperties"] = False
    del part["propertyNames"]
    part |= written

"""Takes addresses out of a JSON schema that llguidance would look up, or refuse: it fetches nothing.

Clients send schemas as they have found them: with `$id`s that are not URIs, and with a `$schema` that names no draft,
or one by the wrong scheme. OpenAI's servers read neither field.
"""

import re
from collections.abc import Mapping
from typing import Any

from inference.text.narrowed_schemas import Schema, subschemas

DRAFT = re.compile(r"https?://(json-schema\.org/draft(?:-0[3-7]|/2019-09|/2020-12)/schema)#?")


def without_addresses(schema: Mapping[str, Any]) -> Schema:
    """Return a copy without the schema's own address, if nothing in it needs that, and with its draft's, if known."""
    copy = dict(schema)
    draft = DRAFT.fullmatch(str(copy.pop("$schema", "")))
    if draft is not None:
        copy["$schema"] = f"{'http' if 'draft-0' in draft[1] else 'https'}://{draft[1]}"
    if all(str(part.get("$ref", "#")).startswith("#") for part in subschemas(copy)):
        copy.pop("$id", None)
    return copy

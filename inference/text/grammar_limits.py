"""Refuses grammars that llguidance would compile for too long, or recurse too deeply for.

llguidance limits most of its work itself, with two exceptions. The time to compile a regular expression grows with the
square of its length, or with the least common multiple of a schema's `multipleOf`; and thousands of rules that each
refer to the next overflow the stack, which ends the process. The limits here keep the time at about half a second, and
the depth at half or less of what a stack of 8 MiB holds.
"""

import math
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

LONGEST_SOURCE = 128 * 1024
"""Characters of a JSON schema or of a list of choices."""
LONGEST_PATTERN = 16 * 1024
"""Characters of a regular expression, of all those in a schema together, or of a Lark grammar."""
DEEPEST = 800
"""Levels of a schema, where each reference may lead one whole definition deeper."""
LARGEST_MULTIPLE = 10_000
"""The least common multiple of all `multipleOf` of a schema, their decimal points left out."""
MOST_RULES = 1000
"""Rules and brackets of a Lark grammar: each may lead one level deeper."""


class TooLarge(ValueError):
    """A grammar is over a limit; the message continues "it ..."."""


def check_length(source: str, longest: int = LONGEST_SOURCE) -> None:
    if len(source) > longest:
        raise TooLarge(f"it has {len(source)} characters, and the limit is {longest}")


def check_pattern(source: str) -> None:
    check_length(source, LONGEST_PATTERN)


def check_lark(source: str) -> None:
    """Refuse a Lark grammar of a request that is too long, or whose rules may lead too deep."""
    check_length(source, LONGEST_PATTERN)
    if "%json" in source:
        raise TooLarge("it has a JSON schema in it; send that as a schema of its own instead")
    if (count := len(re.findall(r"[:(\[]", source))) > MOST_RULES:
        raise TooLarge(f"it has {count} rules and brackets, and the limit is {MOST_RULES}")


def check_schema(schema: Any) -> None:
    """Refuse a schema that nests too deeply, whose patterns or multiples take too long to compile, or whose references
    lead nowhere.
    """
    deepest, references, patterns, multiple = 0, set(), 0, 1
    for node, depth in _nodes(schema):
        deepest = max(deepest, depth)
        references.add(str(node.get("$ref")))
        patterns += len(str(node.get("pattern", "")))
        if isinstance(by_pattern := node.get("patternProperties"), dict):
            patterns += sum(map(len, by_pattern))
        multiple = math.lcm(multiple, _digits(node.get("multipleOf")))
    _check_that_references_end(schema, references)
    if (levels := deepest * len(references)) > DEEPEST:
        raise TooLarge(
            f"it nests {deepest} levels deep and has {len(references) - 1} references, which together may lead "
            f"{levels} levels deep; the limit is {DEEPEST}"
        )
    if patterns > LONGEST_PATTERN:
        raise TooLarge(f"its patterns have {patterns} characters, and the limit is {LONGEST_PATTERN}")
    if multiple > LARGEST_MULTIPLE:
        raise TooLarge(f"the least common multiple of its multipleOf is too large; the limit is {LARGEST_MULTIPLE}")


def _check_that_references_end(schema: Any, references: Iterable[str]) -> None:
    """Refuse references that lead from one to the next and back: llguidance would find out within the answer."""
    ending: set[str] = set()
    for first in references:
        chain: dict[str, None] = {}
        following: object = first
        while isinstance(following, str) and following not in ending:
            if following in chain:
                raise ValueError(f"its reference {following} leads back to itself, so no text matches it")
            chain[following] = None
            target = referred_to(schema, following)
            following = target.get("$ref") if isinstance(target, dict) else None
        ending.update(chain)


def referred_to(schema: Any, reference: str) -> Any:
    """What a reference within a schema such as '#/$defs/Point' leads to; None if it leads elsewhere.

    '#point' leads to the schema whose "$anchor" is "point".
    """
    if not reference.startswith("#"):
        return None
    if anchor := reference[1:].partition("/")[0]:
        return next((node for node, _ in _nodes(schema) if node.get("$anchor") == anchor), None)
    target = schema
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, dict):
            target = target.get(name)
        elif isinstance(target, list):
            target = {str(index): item for index, item in enumerate(target)}.get(name)
        else:
            return None
    return target


def _digits(multiple: object) -> int:
    """A `multipleOf` without its decimal point: 25 for 0.25. Anything but a positive number is left to llguidance."""
    if isinstance(multiple, bool) or not isinstance(multiple, int | float) or not 0 < multiple < math.inf:
        return 1
    _, digits, exponent = Decimal(str(multiple)).as_tuple()
    assert isinstance(exponent, int)  # it is finite
    zeros: int = 10 ** min(max(exponent, 0), 30)
    return int("".join(map(str, digits))) * zeros


def _nodes(schema: Any) -> Iterator[tuple[dict[str, Any], int]]:
    """Every object in a schema, with its depth. No recursion: a schema may nest deeper than Python's stack."""
    waiting = [(schema, 1)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, dict):
            yield node, depth
            waiting += [(child, depth + 1) for child in node.values()]
        elif isinstance(node, list):
            waiting += [(child, depth + 1) for child in node]

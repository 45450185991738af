"""A grammar in Lark's form as one regular expression, where it describes a regular language: its rules do not recurse.

The input of a custom tool is written as a string in JSON. There a regular expression can be enforced, its characters
escaped as JSON has them; a grammar cannot.

Source: Lark's documentation of its grammars, and its `common.lark`.
"""

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

LONGEST = 4096
"""Characters of an expression: a rule is written out wherever it is referred to."""
DEEPEST = 64
"""Brackets and rules in one another."""

_TOKENS = re.compile(
    r"""
      (?P<space> \s+ | //[^\n]* )
    | (?P<import> %import [ \t]+ common\.(?P<imported>\w+) (?: [ \t]*->[ \t]* (?P<alias>\w+))? )
    | (?P<begins> [?!]* (?P<rule>[a-zA-Z_]\w*) (?:\.-?\d+)? [ \t]* :)
    | (?P<name> [a-zA-Z_]\w* )
    | (?P<text> "(?:\\.|[^"\\\n])*" ) (?P<ignores_case> i?)
    | / (?P<regex> (?:\\.|[^/\\\n])+ ) / (?P<flags> [imsux]*)
    | (?P<alias_of_rule> -> [ \t]* \w+ )
    | (?P<times> ~ [ \t]* (?P<least>\d+) (?: [ \t]*\.\.[ \t]* (?P<most>\d+) )? )
    | \{ (?P<braces> \d+ (?:,\d*)? ) \}
    | (?P<mark> \.\. | [|()\[\]?*+] )
    """,
    re.VERBOSE,
)
_META = re.compile(r"[\\.+*?()|\[\]{}^$]")
COMMON: Mapping[str, str] = {
    "DIGIT": "[0-9]",
    "HEXDIGIT": "[0-9a-fA-F]",
    "INT": "[0-9]+",
    "SIGNED_INT": "[+-]?[0-9]+",
    "DECIMAL": r"(?:[0-9]+\.[0-9]*|\.[0-9]+)",
    "FLOAT": r"(?:[0-9]+[eE][+-]?[0-9]+|(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)",
    "NUMBER": r"(?:[0-9]+[eE][+-]?[0-9]+|(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[0-9]+)",
    "LETTER": "[a-zA-Z]",
    "LCASE_LETTER": "[a-z]",
    "UCASE_LETTER": "[A-Z]",
    "WORD": "[a-zA-Z]+",
    "CNAME": "[_a-zA-Z][_a-zA-Z0-9]*",
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(?:\r?\n)+",
}
"""The terminals that grammars import."""


class _NotRegular(Exception):
    """The grammar is not one that this module reads, or not regular."""


class _Token(NamedTuple):
    kind: str
    value: str


def pattern_of(grammar: str) -> str | None:
    """Return the regular expression that matches what the grammar does; None if it is not known to have one."""
    try:
        pattern = _Rules(grammar).written("start", DEEPEST)
    except _NotRegular:
        return None
    return pattern if len(pattern) <= LONGEST else None


class _Rules:
    """The rules of a grammar, each a list of tokens until it is written as an expression."""

    def __init__(self, grammar: str) -> None:
        self._rules: dict[str, list[_Token]] = {}
        self._written: dict[str, str] = {}
        self._open: set[str] = set()
        """The rules that are being written: one that refers to these recurses."""
        place = 0
        rule: list[_Token] | None = None
        while place < len(grammar):
            if (found := _TOKENS.match(grammar, place)) is None:
                raise _NotRegular
            place = found.end()
            if found["begins"]:
                if found["rule"] in self._rules:
                    raise _NotRegular
                rule = self._rules[found["rule"]] = []
            elif found["import"]:
                self._import(found["imported"], found["alias"] or found["imported"])
            elif found["space"] is None and found["alias_of_rule"] is None:
                if rule is None:
                    raise _NotRegular
                rule.append(_token(found))

    def written(self, name: str, depth: int) -> str:
        """Return a rule as an expression. Raises _NotRegular."""
        if name not in self._written:
            if name in self._open or name not in self._rules or depth == 0:
                raise _NotRegular
            self._open.add(name)
            tokens = self._rules[name][::-1]
            self._written[name] = self._alternatives(tokens, depth - 1)
            self._open.remove(name)
            if tokens:
                raise _NotRegular
        return self._written[name]

    def _import(self, name: str, alias: str) -> None:
        if name not in COMMON:
            raise _NotRegular
        self._written[alias] = COMMON[name]

    def _alternatives(self, tokens: list[_Token], depth: int) -> str:
        """Read alternatives from the end of a list of tokens, which is their beginning."""
        options = [""]
        while tokens and _next_mark(tokens) not in (")", "]"):
            if _next_mark(tokens) == "|":
                tokens.pop()
                options.append("")
            else:
                options[-1] += self._repeated(self._atom(tokens, depth), tokens)
            if sum(map(len, options)) > LONGEST:
                raise _NotRegular
        return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"

    def _atom(self, tokens: list[_Token], depth: int) -> str:
        kind, value = tokens.pop()
        match kind:
            case "regex":
                return value
            case "name":
                return self.written(value, depth)
            case "text" if _next_mark(tokens) == "..":
                tokens.pop()
                return _range(value, tokens)
            case "text":
                return _quoted(value)
            case "mark" if value in ("(", "[") and depth > 0:
                inner = self._alternatives(tokens, depth - 1)
                if _next_mark(tokens) != {"(": ")", "[": "]"}[value]:
                    raise _NotRegular
                tokens.pop()
                return inner if value == "(" else f"(?:{inner})?"
        raise _NotRegular

    def _repeated(self, atom: str, tokens: list[_Token]) -> str:
        while tokens and (tokens[-1].kind == "times" or _next_mark(tokens) in ("?", "*", "+")):
            atom = f"(?:{atom}){tokens.pop().value}"
        return atom


def _next_mark(tokens: list[_Token]) -> str:
    """The mark that comes next; empty if something else does, such as a text that looks like one."""
    return tokens[-1].value if tokens and tokens[-1].kind == "mark" else ""


def _token(found: re.Match[str]) -> _Token:
    """Raises _NotRegular."""
    if found["text"] is not None:
        try:
            text = json.loads(found["text"])
        except ValueError:
            raise _NotRegular from None  # an escape that JSON does not have
        if found["ignores_case"]:
            return _Token("regex", f"(?i:{_quoted(text)})")
        return _Token("text", text)
    if found["regex"] is not None:
        flags = found["flags"].replace("u", "")
        return _Token("regex", f"(?{flags}:{found['regex']})")
    if found["times"] is not None:
        least, most = found["least"], found["most"]
        return _Token("times", f"{{{least}}}" if most is None else f"{{{least},{most}}}")
    if found["braces"] is not None:
        return _Token("times", f"{{{found['braces']}}}")
    if found["name"] is not None:
        return _Token("name", found["name"])
    return _Token("mark", found["mark"])


def _quoted(text: str) -> str:
    """An expression that matches a text and nothing else."""
    return _META.sub(r"\\\g<0>", text)


def _range(first: str, tokens: list[_Token]) -> str:
    """A range of characters, as "a".."z"."""
    if not tokens or tokens[-1].kind != "text" or len(first) != 1 or len(tokens[-1].value) != 1:
        raise _NotRegular
    return f"[{_in_brackets(first)}-{_in_brackets(tokens.pop().value)}]"


def _in_brackets(character: str) -> str:
    return (
        f"\\{character}" if character.isascii() and character.isprintable() and not character.isalnum() else character
    )

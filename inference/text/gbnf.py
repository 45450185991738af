"""llama.cpp's grammars (GBNF), written so that llguidance's converter to Lark reads them as llama.cpp does.

The converter loses the zeros with which an escaped character begins, keeps escaped brackets in texts although Lark has
none there, and does not know a rule `start` next to `root`, which becomes Lark's `start`.

One difference stays: a rule of characters alone becomes a terminal, which takes all that match. As a rule, it would
cost 3 ms a step with 49,152 tokens, and 0.01 ms as a terminal.
"""

import re

_PIECE = re.compile(
    r'(?P<comment>#.*)|(?P<text>"(?:\\.|[^"\\])*")|\[(?:\\.|[^]\\])*\]|(?P<start>(?<![\w-])start(?![\w-]))'
)
_ESCAPED = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|.)", re.DOTALL)
_BRACKETS = (r"\[", r"\]")
LAST_CHARACTER = 0x10FFFF


def is_gbnf(source: str) -> bool:
    """Whether a grammar has llama.cpp's form: its first rule, wherever it stands, is `root`."""
    return re.search(r"^\s*root\s*::=", source, re.MULTILINE) is not None


def convertible(source: str) -> str:
    """The same grammar in the part of GBNF that the converter reads."""
    return _PIECE.sub(_written, source)


def _written(piece: re.Match[str]) -> str:
    if piece["comment"]:
        return piece[0]
    if piece["start"]:
        return "rule-start"
    is_text = piece["text"] is not None
    return _ESCAPED.sub(lambda escaped: _character(escaped, is_text), piece[0])


def _character(escaped: re.Match[str], is_text: bool) -> str:
    """An escape, with the character itself in place of its number. ASCII may mean something as it is."""
    if (digits := escaped[1] or escaped[2]) is None:
        return escaped[0][1] if is_text and escaped[0] in _BRACKETS else escaped[0]
    code = int(digits, 16)
    if code < 0x80:
        return f"\\x{code:02x}"
    return escaped[0] if 0xD800 <= code < 0xE000 or code > LAST_CHARACTER else chr(code)

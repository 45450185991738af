"""A grammar in Lark's form is written as a regular expression if its rules do not recurse, and only then."""

import re

import pytest

from contract.openai.lark_pattern import LONGEST, pattern_of
from tests.support.openai_answers import parse

PATCH = r"""
start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?

hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line
change_move: "*** Move to: " filename LF
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF  // where
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF

%import common.LF
"""
"""Of a tool that applies patches."""
CHANGE = "*** Begin Patch\n*** Update File: a.py\n@@ def f():\n-    x\n+    y\n*** End Patch\n"


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        (CHANGE, True),
        (CHANGE.removesuffix("\n"), True),
        (CHANGE.replace("*** Update", "*** Move to: b.py\n*** Update"), False),
        (CHANGE.replace("@@", "*** Move to: b.py\n@@"), True),
        (CHANGE.replace("-    x", "x"), False),
        ("*** Begin Patch\n*** End Patch", False),
        ("*** Begin Patch\n*** Add File: a\n+one\n+\n*** Delete File: b\n*** End Patch", True),
    ],
)
def test_a_patch_matches_its_grammar(text: str, matches: bool) -> None:
    pattern = pattern_of(PATCH)
    assert pattern is not None
    assert bool(re.fullmatch(pattern, text)) == matches


@pytest.mark.parametrize(
    ("grammar", "texts", "others"),
    [
        ('start: "a" | "b"\n   | "c"\nunused: "d"', ["a", "b", "c"], ["d", "", "ab"]),
        ('start: ["a"] "b"', ["ab", "b"], ["a"]),
        ('start: "(" "a" "+" "b" ")" "?" "|" "*"', ["(a+b)?|*"], ["(aab)", "(ab)|"]),
        ('start: ("]" "..")~2 "a".."b"', ["]..]..b"], ["].."]),
        ('start: ("a" | "b")~2 "c"~1..2 "d"{2} "e"{0,1}', ["abcdd", "aaccdde"], ["acdd", "abcccdd", "abcd"]),
        ('start: "a".."c" "-".."/"', ["a-", "c/", "b."], ["d-", "a0"]),
        ('start: /[a-z]+/i "x"i /./s', ["aBx\n", "qXy"], ["1x1"]),
        ('?start: inner\n!inner.2: A+ -> one\nA.5: "1"', ["1", "11"], ["", "2"]),
        (r'start: "\"\\.\n\u00e9" "("', ['"\\.\né('], ['"\\x\né(']),
        (
            "start: INT (WS_INLINE N)*\n%import common.INT\n%import common.WS_INLINE\n%import common.INT -> N",
            ["1 2"],
            [" "],
        ),
        ("start:", [""], ["a"]),
    ],
)
def test_the_expression_matches_what_the_grammar_does(grammar: str, texts: list[str], others: list[str]) -> None:
    pattern = pattern_of(grammar)
    assert pattern is not None
    assert all(re.fullmatch(pattern, text) for text in texts)
    assert not any(re.fullmatch(pattern, text) for text in others)


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "(" start ")" | "x"',
        'start: a\na: b\nb: "x" a?',
        'start: "a"\n%ignore " "',
        "start: missing",
        'other: "a"',
        'start: "a" )',
        'start: ("a"',
        'start: ("a"]',
        'start: "a" -> ',
        'start: "a"\nstart: "b"',
        'start: "ab".."c"',
        'start: "a" ..',
        r'start: "\x41"',
        "start: %json {}",
        'start[lazy]: "a"',
        "start: <|end|>",
        'start: _pair{"a"}\n_pair{x}: x x',
        "%import common.NONE\nstart: NONE",
        "",
        "start: " + "(" * 200 + '"a"' + ")" * 200,
        "start: a99\na0: /./\n" + "\n".join(f"a{number + 1}: a{number} a{number}" for number in range(99)),
        'start: "' + "a" * (LONGEST + 1) + '"',
    ],
)
def test_what_is_not_known_to_be_regular_has_no_expression(grammar: str) -> None:
    assert pattern_of(grammar) is None


def test_calls_are_held_to_a_grammar_that_has_an_expression() -> None:
    def offered(definition: str) -> dict[str, object]:
        format = {"type": "grammar", "syntax": "lark", "definition": definition}
        call = parse("/v1/responses", input="hi", tools=[{"type": "custom", "name": "patch", "format": format}])
        function: dict[str, object] = call.requests[0].prompt.tools[0]["function"]
        return function

    held, shown = offered('start: "a"+'), offered('start: "a" start?')
    assert held["strict"] is True
    assert held["parameters"]["properties"] == {"input": {"type": "string", "pattern": "^(?:(?:a)+)$"}}  # type: ignore[index]
    assert "strict" not in shown
    assert shown["parameters"]["properties"] == {"input": {"type": "string"}}  # type: ignore[index]
    assert "start?" in str(shown["description"])

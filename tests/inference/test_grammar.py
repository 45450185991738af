"""A text follows its grammar token by token; a grammar that cannot be enforced is refused with the reason."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from contract.openai.lark_pattern import pattern_of
from contract.tools import function_tool
from inference.text.grammar import CompiledGrammar, GrammarCompiler, GrammarError
from inference.text.grammar_limits import DEEPEST, TooLarge, check_schema
from inference.text.tool_forms import HERMES
from inference.text.tool_grammar import tool_grammar
from interface.errors import RequestError, UnsupportedFeature
from interface.requests import ChatPrompt, Grammar
from tests.support.json_schemas import is_valid, random_schema
from tests.support.tiny_models import byte_tokenizer

VOCABULARY = 4096
EOS = 2
TOKENIZER: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained("bundled_model")
COMPILER = GrammarCompiler(TOKENIZER, VOCABULARY, [EOS])


def schema(value: object) -> Grammar:
    return Grammar("json_schema", json.dumps(value))


def token(text: str) -> int:
    (token_id,) = TOKENIZER.encode(text, add_special_tokens=False)
    assert isinstance(token_id, int)
    return token_id


def allowed(compiled: CompiledGrammar, *token_ids: int) -> list[int]:
    """The tokens that may follow these."""
    state = compiled.start()
    for token_id in token_ids:
        state.advance(token_id)
    return [int(index) for index in np.flatnonzero(np.unpackbits(state.mask().view(np.uint8), bitorder="little"))]


def random_text(
    grammar: Grammar, seed: int, tokenizer: PreTrainedTokenizerBase = TOKENIZER, compiler: GrammarCompiler = COMPILER
) -> tuple[str, bool]:
    """A text of which each token is drawn from those allowed, and whether the grammar was finished with it."""
    state, random = compiler.compile(grammar).start(), Random(seed)
    token_ids: list[int] = []
    while not state.is_finished and len(token_ids) < 400:
        choices = np.flatnonzero(np.unpackbits(state.mask().view(np.uint8), bitorder="little"))
        token_ids.append(int(choices[random.randrange(len(choices))]))
        state.advance(token_ids[-1])
    text = tokenizer.decode([token_id for token_id in token_ids if token_id != EOS])
    assert isinstance(text, str)
    return text, state.is_finished


def test_whatever_tokens_are_drawn_the_text_is_valid_for_its_schema() -> None:
    finished = 0
    for seed in range(200):
        value = random_schema(seed)
        text, is_finished = random_text(schema(value), seed)
        if is_finished:
            assert is_valid(text, value), text
        finished += is_finished
    assert finished > 190


def test_a_choice_is_one_of_its_texts_whatever_characters_they_have() -> None:
    choices = ["yes/no", '"q"', "new\nline", "\\", "é😀", "\x00\x7f", "a|b", "a", "ab", ".*"]
    texts = {random_text(Grammar("choice", json.dumps(choices)), seed)[0] for seed in range(200)}
    assert texts <= set(choices)
    assert len(texts) > 7


CHANGES: dict[str, Callable[[Tokenizer], object]] = {
    "composes letters, as Qwen's": lambda made: setattr(made, "normalizer", normalizers.NFC()),
    "writes lower case": lambda made: setattr(made, "normalizer", normalizers.Lowercase()),
    "leaves out outer spaces": lambda made: setattr(made, "normalizer", normalizers.Strip()),
    "adds a space": lambda made: setattr(made, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "has a token of such characters": lambda made: made.add_special_tokens(["<｜e▁s｜>"]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_text_that_the_tokenizer_would_change_can_be_demanded(change: Callable[[Tokenizer], object]) -> None:
    tokenizer = byte_tokenizer()
    change(tokenizer.backend_tokenizer)
    texts = ["e\u0301te\u0301", "\u0958", "CAT", " x ", "<｜e▁s｜>"]
    compiler = GrammarCompiler(tokenizer, VOCABULARY, [EOS])
    for text in texts:
        value = {"type": "object", "properties": {text: {"const": text}}, "required": [text]}
        found, _ = random_text(schema(value | {"additionalProperties": False}), 1, tokenizer, compiler)
        assert json.loads(found) == {text: text}
    chosen, _ = random_text(Grammar("choice", json.dumps(texts)), 1, tokenizer, compiler)
    assert chosen in texts


def test_a_regular_expression_matches_the_whole_text() -> None:
    for seed in range(20):
        assert random_text(Grammar("regex", r"(do|re)-[0-9]{2}/x"), seed)[0][-5:-4].isascii()
        text, is_finished = random_text(Grammar("regex", "ab?c"), seed)
        assert is_finished
        assert text in ("ac", "abc")


def test_an_expression_made_of_a_lark_grammar_matches_a_string_in_json() -> None:
    lark = 'start: ("\\"q\\"\\n" | "\\\\" "a".."c" | /[^x]/ "é"i){1,3} LF\n%import common.LF'
    pattern = pattern_of(lark)
    assert pattern is not None
    for seed in range(20):
        text, is_finished = random_text(schema({"type": "string", "pattern": f"^(?:{pattern})$"}), seed)
        assert is_finished
        assert re.fullmatch(pattern, json.loads(text)), text


def test_a_grammar_may_be_lark_or_gbnf() -> None:
    assert random_text(Grammar("lark", 'start: "a" b\nb: "b"'), 0) == ("ab", True)
    assert random_text(Grammar("lark", 'root ::= "a" b\nb ::= "b"'), 0) == ("ab", True)


@pytest.mark.parametrize(
    ("rules", "texts"),
    [
        (r'root ::= "\u00e9\U0001F600"', {"é😀"}),
        (r"root ::= [\u0434-\u0436]", {"д", "е", "ж"}),
        (r'root ::= "\[\u0022\u000a\]\\" [\]\[]', {'["\n]\\[', '["\n]\\]'}),
        ('start ::= "start" # start\nroot ::= re-start | start\nre-start ::= "x"', {"x", "start"}),
        ('root ::= "a" | # or\r\n "b"\r\n', {"a", "b"}),
    ],
)
def test_gbnf_means_what_it_means_to_llama_cpp(rules: str, texts: set[str]) -> None:
    assert {random_text(Grammar("lark", rules), seed)[0] for seed in range(40)} == texts


def test_a_panic_of_the_library_is_named_without_the_stack_of_the_server() -> None:
    lazy = Grammar("lark", 'start: x "END"\nx[lazy]: /(.|\\n)*/', "grammar")
    with pytest.raises(RequestError, match="panic: assertion failed") as refused:
        COMPILER.compile(lazy)
    assert "backtrace" not in str(refused.value)
    assert "<unknown>" not in str(refused.value)


def test_white_space_in_json_is_bounded() -> None:
    compiled = COMPILER.compile(schema({"type": "array", "items": {"type": "integer"}}))
    bracket, blank, line = token("["), token(" "), token("\n")
    assert {blank, line} <= set(allowed(compiled, bracket))
    assert not {blank, line} & set(allowed(compiled, bracket, blank))
    assert blank in allowed(compiled, bracket, line, *[blank] * 13)
    assert not {blank, line} & set(allowed(compiled, bracket, line, *[blank] * 14))


def test_an_integer_without_bounds_has_at_most_16_digits() -> None:
    for value in ({"type": "integer"}, {"anyOf": [{"type": ["integer", "null"]}]}, {"type": "integer", "minimum": 1}):
        compiled, digit = COMPILER.compile(schema(value)), token("3")
        assert digit in allowed(compiled, *[digit] * 15)
        assert digit not in allowed(compiled, *[digit] * 16)


def test_only_the_end_of_the_text_may_follow_a_finished_grammar() -> None:
    state = COMPILER.compile(schema({"const": 1})).start()
    assert not state.is_finished
    state.advance(token("1"))
    assert state.is_finished


def test_the_end_of_the_text_may_come_where_the_grammar_could_go_on() -> None:
    compiled = COMPILER.compile(Grammar("regex", "[0-9]+"))
    assert EOS not in allowed(compiled)
    assert {EOS, token("1")} <= set(allowed(compiled, token("1")))
    state = compiled.start()
    state.advance(token("1"))
    state.advance(EOS)
    assert state.is_finished


def test_states_of_one_grammar_do_not_know_of_each_other() -> None:
    compiled = COMPILER.compile(Grammar("regex", "a|b"))
    first, second = compiled.start(), compiled.start()
    first.advance(token("a"))
    assert first.is_finished
    assert not second.is_finished
    assert {token("a"), token("b")} <= set(allowed(compiled))


def test_a_token_that_the_grammar_does_not_allow_is_an_error() -> None:
    state = COMPILER.compile(Grammar("regex", "ab")).start()
    with pytest.raises(GrammarError):
        state.advance(EOS)


# --- The compiler -----------------------------------------------------------------------------------------------------


def test_equal_grammars_compile_once_and_the_oldest_are_forgotten() -> None:
    compiler = GrammarCompiler(TOKENIZER, VOCABULARY, [EOS], capacity=2)
    first, second, third = (Grammar("regex", text) for text in "abc")
    compiled = compiler.compile(first)
    compiler.compile(second)
    assert compiler.compile(Grammar("regex", "a")) is compiled
    compiler.compile(third)
    assert compiler.compile(first) is compiled
    assert compiler.compile(second) is not None
    assert compiler.compile(third) is compiler.compile(third)


def test_threads_that_ask_for_one_grammar_get_the_same() -> None:
    compiler = GrammarCompiler(TOKENIZER, VOCABULARY, [EOS])
    compiled: list[CompiledGrammar] = []
    grammar = schema(random_schema(0))
    threads = [threading.Thread(target=lambda: compiled.append(compiler.compile(grammar))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(compiled) == 8
    assert len(set(map(id, compiled))) == 1


def test_a_server_without_grammars_does_not_load_the_library() -> None:
    program = "import sys, inference.text.grammar; sys.exit('llguidance' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)


def test_a_tokenizer_that_cannot_be_used_is_refused_when_it_is_needed() -> None:
    compiler = GrammarCompiler(object(), VOCABULARY, [EOS])  # type: ignore[arg-type]
    with pytest.raises(UnsupportedFeature, match="tokenizer"):
        compiler.compile(Grammar("regex", "a"))


def test_ids_past_the_tokenizers_last_are_never_allowed() -> None:
    tokenizer = byte_tokenizer()
    compiled = GrammarCompiler(tokenizer, VOCABULARY, [1]).compile(Grammar("regex", "(?s:.*)"))
    assert max(allowed(compiled)) < len(tokenizer)


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"not": {"type": "string"}}, '"not"'),
        ({"type": "array", "uniqueItems": True}, '"uniqueItems"'),
        ({"type": "string", "format": "json-pointer"}, "json-pointer"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"$ref": "https://example.org/schema"}, "https://example.org/schema"),
        ({"$ref": "#/$defs/nothing"}, "/$defs/nothing"),
        ({"anyOf": [{"$ref": f"#/anyOf/{'9' * 5000}"}]}, "index '999"),
        ({"$ref": "#"}, "its reference # leads back to itself"),
        ({"$ref": "#x", "$anchor": "x"}, "its reference #x leads back to itself"),
        ({"$ref": "#nowhere"}, "nowhere"),
        ({"items": {"$ref": "#/a~1b/0"}, "a/b": [{"$ref": "#/cd"}], "cd": {"$ref": "#/a~1b/0"}}, "leads back"),
        ({"type": "integer", "minimum": 3, "maximum": 1}, "minimum (3)"),
        ({"type": "colour"}, "colour"),
        ({"not": {}, "x-guidance": {"lenient": True}}, '"not"'),
        ({"const": "\ud800"}, "ud800"),
        (False, "False"),
        ([], "[]"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_with_the_keyword(value: object, named: str) -> None:
    with pytest.raises(RequestError) as refused:
        COMPILER.compile(schema(value))
    assert named in str(refused.value)


@pytest.mark.parametrize("grammar", [schema({"type": "colour"}), Grammar("regex", "(a"), Grammar("lark", "start: b")])
def test_a_grammar_is_refused_by_the_field_that_it_comes_from(grammar: Grammar) -> None:
    for param in ("response_format", "guided_regex"):
        with pytest.raises(RequestError, match=f"^{param}: This ") as refused:
            COMPILER.compile(replace(grammar, param=param))
        assert refused.value.param == param
    with pytest.raises(RequestError, match=r"^This ") as refused:
        COMPILER.compile(grammar)
    assert refused.value.param is None


def test_equal_grammars_of_different_fields_compile_once() -> None:
    grammars = [Grammar("regex", "a{3}", param) for param in ("regex", "guided_regex")]
    first, second = map(COMPILER.compile, grammars)
    assert first is second


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("json_schema", "{"),
        Grammar("regex", "(a"),
        Grammar("regex", "\ud800"),
        Grammar("choice", "[]"),
        Grammar("choice", '[""]'),
        Grammar("choice", '"a"'),
        Grammar("choice", '["\\ud800"]'),
        Grammar("lark", "start: missing"),
        Grammar("lark", 'start: "a" x\nx: x'),
        Grammar("lark", 'start: %json {"type": "integer"}'),
        Grammar("lark", "no grammar at all"),
    ],
)
def test_a_grammar_with_a_fault_is_refused(grammar: Grammar) -> None:
    with pytest.raises(RequestError, match=r"cannot be enforced: \S"):
        COMPILER.compile(grammar)


def test_a_tool_that_cannot_be_enforced_is_refused_with_what_it_has_and_nothing_else() -> None:
    grammar = Grammar("tools", 'start: "a" rest\nrest: %json {"uniqueItems": true, "type": "array"}')
    expected = r'This grammar of the tools cannot be enforced: Unimplemented keys: \["uniqueItems"\]$'
    with pytest.raises(RequestError, match=expected):
        COMPILER.compile(grammar)


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"properties": {"a": {"pattern": "("}}}, r"regex parse error: \( \^ error: unclosed group"),
        ({"properties": {"a": {"type": "strin"}}}, "Invalid type: strin"),
        ({"properties": {"a": {"pattern": "(\n12 | rest_99: x"}}}, "regex parse error: .*"),
    ],
)
def test_of_several_tools_the_one_that_cannot_be_enforced_is_named(parameters: dict[str, Any], reason: str) -> None:
    tools = [function_tool(name, None, schema) for name, schema in (("one", {}), ("two", parameters), ("three", {}))]
    prompt = ChatPrompt([], tools, tool_choice="required")
    grammar = tool_grammar(prompt, HERMES, COMPILER.special_tokens())
    with pytest.raises(RequestError, match=rf"cannot be enforced: the parameters of the tool 'two': {reason}$"):
        COMPILER.compile(grammar)


@pytest.mark.parametrize(
    "grammar", [schema({"$ref": "#"}), Grammar("lark", "start: start"), Grammar("regex", r"[^\s\S]")]
)
def test_a_grammar_that_no_text_matches_is_refused_in_those_words(grammar: Grammar) -> None:
    with pytest.raises(RequestError, match="no text matches it"):
        COMPILER.compile(grammar)


def chain(length: int) -> dict[str, object]:
    definitions: dict[str, object] = {
        f"d{i}": {"type": "object", "properties": {"next": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(length)
    }
    return {"$defs": {**definitions, f"d{length}": {"type": "null"}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    "grammar",
    [
        schema(chain(2000)),  # overflows the stack
        Grammar("lark", "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(8000)) + '\nr8000: "a"'),  # likewise
        Grammar("regex", "a*b*" * 30_000),  # takes a minute
        schema({"type": "string", "pattern": "a*b*" * 30_000}),  # likewise
        schema({"type": "integer", "multipleOf": 9_999_991}),  # does not end within minutes
        schema({"allOf": [{"type": "integer", "multipleOf": prime} for prime in (7, 11, 13, 17, 19)]}),
        schema({"type": "object", "properties": {f"p{i}": {} for i in range(3000)}}),
        schema({"enum": [f"value {i}" for i in range(100_000)]}),
        Grammar("choice", json.dumps([f"value {i}" for i in range(100_000)])),
        Grammar("json_schema", '{"items": ' * 300 + "{}" + "}" * 300),
        Grammar("json_schema", "[" * 100_000),
        Grammar("regex", "(a" * 5000 + ")*" * 5000),
        Grammar("lark", "start: " + "(" * 900 + '"a"' + ")" * 900),
    ],
)
@pytest.mark.timeout(10)
def test_a_grammar_that_would_take_too_much_is_refused(grammar: Grammar) -> None:
    with pytest.raises(RequestError, match="cannot be enforced"):
        COMPILER.compile(grammar)


def alternatives_in(levels: int) -> dict[str, Any]:
    """A schema that nests in lists as well as in objects; its innermost object is one more level."""
    nested: dict[str, Any] = {}
    for _ in range(levels // 2):
        nested = {"anyOf": [nested]}
    return nested


def test_a_list_is_a_level_of_a_schema_as_an_object_is() -> None:
    check_schema(alternatives_in(DEEPEST - 1))
    with pytest.raises(TooLarge, match=f"nests {DEEPEST + 1} levels deep"):
        check_schema(alternatives_in(DEEPEST))


def test_grammars_within_the_limits_are_not_refused() -> None:
    COMPILER.compile(schema(chain(60)))
    COMPILER.compile(schema({"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(300)}}))
    COMPILER.compile(schema({"enum": [f"value {i}" for i in range(5000)]}))
    COMPILER.compile(Grammar("choice", json.dumps([f"value {i}" for i in range(5000)])))
    COMPILER.compile(schema({"type": "number", "multipleOf": 0.01}))

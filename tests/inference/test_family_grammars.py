"""In every family's form, a grammar makes each call one that its tool's schema allows and that its parser reads."""

import copy
import functools
import json
import re
from random import Random
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from inference.text import tool_forms
from inference.text.families import FAMILIES, family_of
from inference.text.grammar import CompiledGrammar, GrammarCompiler
from inference.text.response_format import ResponseFormat
from inference.text.text_side import GenerationSettings, TextSide
from inference.text.tool_forms import ToolForm
from inference.text.tool_grammar import tool_grammar
from interface.errors import RequestError
from interface.events import Part, TextPart
from interface.requests import ChatPrompt, GenerationRequest, SamplingParams
from tests.support.answer_parts import calls_of
from tests.support.chat_tokenizers import chat_tokenizer
from tests.support.json_schemas import is_valid

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 6},
        "unit": {"enum": ["celsius", "a<b", 3, None]},
        "days": {"type": "integer", "minimum": 0, "maximum": 20},
        "code": {"type": "string", "pattern": "^[a-z]{1,3}/x$"},
        "at": {"$ref": "#/$defs/Point"},
        "note": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"enum": ["</b>", "b"]}, "maxItems": 2},
    },
    "required": ["city", "unit", "at"],
    "$defs": {"Point": {"type": "object", "properties": {"x": {"enum": [1, 2.5]}}, "required": ["x"]}},
}
FORMS = {name: value for name, value in vars(tool_forms).items() if isinstance(value, ToolForm) and name.isupper()}
PLAIN = [name for name in FORMS if name != "HARMONY"]
"""The forms of answers that are one text. tests/inference/test_harmony.py has the other."""
QUESTION = {"role": "user", "content": "Hello"}
CALLED = ("weather", {"city": "Paris", "unit": 3, "at": {"x": 1}})


def a_tool(name: str, parameters: dict[str, Any], strict: bool = True) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": strict}}


TOOLS = [a_tool("weather", SCHEMA), a_tool("now", {})]


@functools.cache
def tokenizer_and_compiler(has_special: bool) -> tuple[PreTrainedTokenizerBase, GrammarCompiler]:
    """A tokenizer in which the marks of all forms are special tokens, or are not; and a compiler for it."""
    tokenizer = chat_tokenizer("plain")
    text = "".join(form.write("now", {"at": 1}) for form in FORMS.values()) if has_special else ""
    marks = [AddedToken(mark, normalized=False) for mark in re.findall(r"<[^<>\s=]+>|\[[A-Z_]+\]", text)]
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(marks), key=str)})
    return tokenizer, GrammarCompiler(tokenizer, len(tokenizer), [1])


def compiled(form: str, has_special: bool, **settings: Any) -> CompiledGrammar:
    prompt = ChatPrompt([QUESTION], **{"tools": TOOLS, "tool_choice": "required", **settings})
    _, compiler = tokenizer_and_compiler(has_special)
    return compiler.compile(tool_grammar(prompt, FORMS[form], compiler.special_tokens()))


def accepts(form: str, has_special: bool, text: str, **settings: Any) -> bool:
    """Whether the grammar lets the model write this text and end it there."""
    token_ids = tokenizer_and_compiler(has_special)[0].encode(text, add_special_tokens=False)
    return follows(compiled(form, has_special, **settings), [*token_ids, 1])


def follows(grammar: CompiledGrammar, token_ids: list[int]) -> bool:
    """Whether tokens, the last of which ends the text, follow a grammar."""
    state = grammar.start()
    for token_id in token_ids:
        if state.is_finished:
            return bool(token_id == 1)
        if not state.mask()[token_id // 32] >> (token_id % 32) & 1:
            return False
        state.advance(token_id)
    return True


def drawn(form: str, has_special: bool, seed: int) -> str:
    """A text of which each token is drawn from those allowed."""
    state, random = compiled(form, has_special, parallel_tool_calls=seed % 2 == 0).start(), Random(seed)
    token_ids: list[int] = []
    while not state.is_finished and len(token_ids) < 4000:
        choices = np.flatnonzero(np.unpackbits(state.mask().view(np.uint8), bitorder="little"))
        token_ids.append(1 if 1 in choices else int(choices[random.randrange(len(choices))]))
        state.advance(token_ids[-1])
    text = tokenizer_and_compiler(has_special)[0].decode(
        [token_id for token_id in token_ids if token_id != 1], skip_special_tokens=False
    )
    assert isinstance(text, str)
    return text


def read(form: str, text: str, is_guaranteed: bool) -> list[tuple[str, str]]:
    """The calls in a text that comes letter by letter."""
    family = next(family for family in FAMILIES if family.form is FORMS[form])
    found = ResponseFormat.of_family(family, None)
    parser = found.parser("", TOOLS, guaranteed=family.form if is_guaranteed else None, has_content=not is_guaranteed)
    return calls_of([*(part for letter in text for part in parser.feed(letter)), *parser.finish()])


@pytest.mark.parametrize("has_special", [False, True])
@pytest.mark.parametrize("form", PLAIN)
def test_what_a_grammar_allows_is_read_as_calls_that_the_schema_allows(form: str, has_special: bool) -> None:
    for seed in range(2):
        text = drawn(form, has_special, seed)
        calls = read(form, text, is_guaranteed=True)
        assert parsed(calls) == parsed(read(form, text, is_guaranteed=False)), text
        assert calls
        for name, arguments in calls:
            assert is_valid(arguments, SCHEMA if name == "weather" else {"maxProperties": 0}), text


WRITTEN: dict[str, tuple[list[tuple[str, dict[str, Any]]], bool]] = {
    "as the schema says": ([CALLED], True),
    "two": ([CALLED, ("now", {})], True),
    "a wrong number": ([("weather", {**CALLED[1], "unit": 4})], False),
    "a wrong text": ([("weather", {**CALLED[1], "unit": "kelvin"})], False),
    "too long a text": ([("weather", {**CALLED[1], "city": "Helsinki"})], False),
    "not the pattern": ([("weather", {"city": "Paris", "unit": 3, "code": "ab/y", "at": {"x": 1}})], False),
    "a wrong structure": ([("weather", {**CALLED[1], "at": {"x": 2}})], False),
    "one parameter too many": ([("weather", {**CALLED[1], "more": 1})], False),
    "one too few": ([("weather", {"city": "Paris", "unit": 3})], False),
    "an unknown tool": ([("sing", {})], False),
}


@pytest.mark.parametrize("form", PLAIN)
@pytest.mark.parametrize("calls", WRITTEN)
def test_a_family_writes_what_its_grammar_allows(form: str, calls: str) -> None:
    written, is_allowed = WRITTEN[calls]
    for has_special in (False, True):
        assert accepts(form, has_special, FORMS[form].write_all(written)) == is_allowed


@pytest.mark.parametrize("name", ["mcp__files__read-file.v2", "a" * 128])
def test_a_tool_may_have_a_name_that_anthropic_or_mcp_allows(name: str) -> None:
    assert accepts("HERMES", False, FORMS["HERMES"].write(name, {}), tools=[a_tool(name, {})])


@pytest.mark.parametrize("name", ["", "a b", 'a"', "a" * 129])
def test_a_name_that_no_api_allows_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match="at most 128 letters") as caught:
        compiled("HERMES", False, tools=[a_tool("now", {}), a_tool(name, {})])
    assert caught.value.param == "tools.1.function.name"


@pytest.mark.parametrize("form", PLAIN)
def test_strict_tools_leave_room_for_text(form: str) -> None:
    tool_form = FORMS[form]
    text, wrong = tool_form.write(*CALLED), tool_form.write("weather", {**CALLED[1], "unit": "kelvin"})
    assert accepts(form, False, "It is 4.", tool_choice="auto")
    assert accepts(form, False, f"I look. {text}", tool_choice="auto")
    assert not accepts(form, False, f"I look. {wrong}", tool_choice="auto")


TAGGED = [name for name in PLAIN if (its := FORMS[name].parameters) is not None and not its.quotes_texts]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "string", "format": "date"}, "'when': .* 'format' cannot be checked"),
        ({"$ref": "#/$defs/missing"}, "'when': its reference '#/.defs/missing' leads nowhere"),
        ({"allOf": [{"type": "string"}, {"minLength": 1}]}, "'when': it has an 'allOf'"),
        ({"enum": ["</parameter></arg_value></｜DSML｜parameter>"]}, "'when': .* cannot be written"),
    ],
)
def test_what_a_text_between_tags_cannot_be_held_to_is_refused_if_the_tool_is_strict(
    schema: dict[str, Any], reason: str
) -> None:
    parameters = {"type": "object", "properties": {"when": schema}}
    with pytest.raises(RequestError, match=f"The parameters of the tool 'plan' cannot be enforced.* {reason}"):
        compiled("QWEN_CODER", False, tools=[a_tool("plan", parameters)])


def test_what_a_text_between_tags_cannot_be_held_to_is_ignored_if_the_tool_is_not_strict() -> None:
    parameters = {"type": "object", "properties": {"when": {"type": "string", "format": "date"}}}
    tools = [a_tool("plan", parameters, strict=False)]
    assert accepts("GLM", False, FORMS["GLM"].write("plan", {"when": "noon"}), tools=tools)


@pytest.mark.parametrize("form", TAGGED)
def test_parameters_are_read_as_what_their_schema_refers_to(form: str) -> None:
    ((_, arguments),) = read(form, FORMS[form].write(*CALLED), is_guaranteed=False)
    assert json.loads(arguments) == CALLED[1]


THOUGHT = "<|START_THINKING|>I think.<|END_THINKING|>"
COHERE_CALL = FORMS["COHERE"].write(*CALLED)


@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        ("It is 4.", True),
        (f"{THOUGHT}It is 4.", True),
        (f"{THOUGHT}<|START_RESPONSE|>It is 4.<|END_RESPONSE|>", True),
        (THOUGHT + COHERE_CALL, True),
        (THOUGHT + COHERE_CALL.replace("3", "4"), False),
    ],
)
def test_strict_tools_leave_room_for_what_special_tokens_mark(text: str, is_allowed: bool) -> None:
    tokenizer = chat_tokenizer("plain")
    marks = re.findall(r"<[^<>]+>", THOUGHT + COHERE_CALL + "".join(FORMS["COHERE"].around_content or ()))
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(mark, normalized=False) for mark in marks]})
    tokenizer.chat_template = tokenizer.chat_template + "{# tools <|START_THINKING|> <|START_ACTION|> #}"
    side = TextSide(tokenizer, 4096, len(tokenizer), GenerationSettings([1]))
    (encoded,) = side.encode([GenerationRequest(ChatPrompt([QUESTION], TOOLS), SamplingParams(), parse_response=True)])
    assert follows(encoded.grammar, [*tokenizer.encode(text, add_special_tokens=False), 1]) == is_allowed


KNOWN = [name for name in PLAIN if (known := family_of(FORMS[name].write(*CALLED))) and known.form is FORMS[name]]
"""The forms whose families are known by how they write calls."""


@pytest.mark.parametrize("form", KNOWN)
def test_calls_are_found_in_tokens_whose_marks_are_special(form: str) -> None:
    tool_form = FORMS[form]
    text = tool_form.write_all([CALLED, ("now", {})])
    tokenizer = copy.deepcopy(tokenizer_and_compiler(has_special=True)[0])
    tokenizer.chat_template = f"{tokenizer.chat_template}{{# tools {text} #}}"
    side = TextSide(tokenizer, 4096, len(tokenizer), GenerationSettings([1]))
    params = SamplingParams(max_tokens=1000)
    (encoded,) = side.encode([GenerationRequest(ChatPrompt([QUESTION], TOOLS), params, parse_response=True)])
    answer = side.answer(encoded)
    parts: list[Part] = []
    answer.admit()
    token_ids = [*tokenizer.encode(text, add_special_tokens=False), 1]
    assert follows(encoded.grammar, token_ids)
    for token_id in token_ids:
        token, _ = answer.append(token_id)
        parts += token.parts or ()
    assert [(name, json.loads(arguments)) for name, arguments in calls_of(parts)] == [CALLED, ("now", {})]
    assert not [part for part in parts if isinstance(part, TextPart)]


def parsed(calls: list[tuple[str, str]]) -> list[tuple[str, Any]]:
    return [(name, json.loads(arguments)) for name, arguments in calls]

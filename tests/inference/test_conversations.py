"""A conversation is answered in parts: content, reasoning, tool calls; a tool call can be forced on any model."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from transformers import AutoTokenizer

from config import BUNDLED_MODEL, Config
from engine import Engine
from interface.errors import PromptTooLong, RequestError
from interface.events import Finished, Part, TextPart, Token
from interface.requests import ChatPrompt, GenerationRequest, Grammar, SamplingParams
from tests.support.answer_parts import calls_of
from tests.support.chat_tokenizers import chat_tokenizer, tool
from tests.support.parsed_answers import FORMS
from tests.support.tiny_models import Inbox, run_until_idle, tiny_engine

QUESTION = {"role": "user", "content": "What is 2 + 2?"}
ADD = tool("add", a={"type": "integer", "minimum": 0, "maximum": 99}, b={"type": "integer", "minimum": 0, "maximum": 9})
SAY = tool("say", strict=True, text={"enum": ["yes", "no"]})


@pytest.fixture(scope="module")
def bundled() -> Engine:
    return Engine.load(Config(max_streams=4))


def ask(
    engine: Engine, prompt: ChatPrompt, grammar: Grammar | None = None, **settings: Any
) -> tuple[list[Token], Finished]:
    """The events of one answer."""
    params = SamplingParams(**{"max_tokens": 120, "temperature": 1.0, "seed": 0, **settings})
    request = GenerationRequest(prompt, params, grammar, parse_response=True, clamp_max_tokens=True)
    inbox = Inbox()
    engine.submit(engine.encode([request]), inbox)
    run_until_idle(engine)
    end = inbox.end(request.sequence_id)
    assert isinstance(end, Finished), end
    return inbox.tokens(request.sequence_id), end


def parts_of(tokens: Sequence[Token]) -> list[Part]:
    return [part for token in tokens for part in token.parts or ()]


def content_of(tokens: Sequence[Token]) -> str:
    texts = [part for part in parts_of(tokens) if isinstance(part, TextPart)]
    return "".join(part.text for part in texts if part.kind == "content")


def only_calls_of(tokens: Sequence[Token]) -> list[tuple[str, str]]:
    """The name and the arguments of each call of an answer that has no content."""
    assert not content_of(tokens)
    return calls_of(parts_of(tokens))


# --- The bundled model ------------------------------------------------------------------------------------------------


def test_the_bundled_model_answers_a_conversation(bundled: Engine) -> None:
    tokens, end = ask(bundled, ChatPrompt([QUESTION]), temperature=0)
    assert "".join(token.text for token in tokens) == "The answer is 4."
    assert (end.finish_reason, tokens[0].parts) == ("stop", None)


def test_the_bundled_models_template_renders_plain_conversations_as_it_was_trained() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    messages: list[Any] = [
        {"role": "system", "content": "Be brief. \n"},
        {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "text", "text": " 2 + 2?"}]},
        {"role": "assistant", "content": "4.\n"},
        {"role": "developer", "content": ""},
        {"role": "user", "content": "Why?"},
    ]
    expected = "<|bos|><|system|>Be brief. \n<|user|>What is 2 + 2?<|assistant|>4.\n<|eos|><|system|><|user|>Why?"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == expected
    expected += "<|assistant|>"
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == expected


def test_the_bundled_model_answers_in_json_where_a_grammar_asks_for_it(bundled: Engine) -> None:
    for seed in range(5):
        schema = {"type": "object", "properties": {"sum": {"type": "integer", "maximum": 99}}, "required": ["sum"]}
        grammar = Grammar("json_schema", json.dumps({**schema, "additionalProperties": False}))
        tokens, end = ask(bundled, ChatPrompt([QUESTION]), grammar, seed=seed)
        assert end.finish_reason == "stop"
        assert list(json.loads("".join(token.text for token in tokens))) == ["sum"]


def test_the_bundled_model_calls_tools_and_takes_their_results(bundled: Engine) -> None:
    tokens, end = ask(bundled, ChatPrompt([QUESTION], [ADD], tool_choice="required", parallel_tool_calls=False))
    ((name, arguments),) = only_calls_of(tokens)
    assert (name, end.finish_reason) == ("add", "stop")
    assert json.loads(arguments).keys() == {"a", "b"}
    made = {"type": "function", "function": {"name": name, "arguments": arguments}}
    turn: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [made]}
    conversation = [QUESTION, turn, {"role": "tool", "tool_call_id": "1", "content": "4"}]
    tokens, end = ask(bundled, ChatPrompt(conversation, [ADD]), temperature=0)
    assert end.completion_tokens > 0
    assert all(token.parts is not None for token in tokens)


def test_the_bundled_model_ends_a_call_whose_schema_leaves_much_open(bundled: Engine) -> None:
    address = tool("Address", street={"type": "string", "maxLength": 20}, number={"type": "integer"})
    tokens, end = ask(bundled, ChatPrompt([QUESTION], [address], named_tool="Address"), temperature=0)
    ((name, arguments),) = only_calls_of(tokens)
    assert (name, json.loads(arguments).keys(), end.finish_reason) == ("Address", {"street", "number"}, "stop")


def test_tools_that_are_not_to_be_called_are_not_shown(bundled: Engine) -> None:
    tokens, _ = ask(bundled, ChatPrompt([QUESTION], [ADD], tool_choice="none"), temperature=0)
    assert "".join(token.text for token in tokens) == "The answer is 4."


# --- Every family -----------------------------------------------------------------------------------------------------

FAMILIES = ["plain", "hermes", "qwen", "llama3", "mistral_list", "mistral_named"]


END_SOON = {1: 6.0}
"""A bias that makes the random models end their text, or their reasoning, where they may."""


def family_engine(family: str) -> Engine:
    return tiny_engine(tokenizer=chat_tokenizer(family), eos_ids=[1], context=1000)


def end_soon(family: str) -> dict[int, float]:
    closing = chat_tokenizer(family).convert_tokens_to_ids("</think>")
    return {**END_SOON, closing: 8.0} if isinstance(closing, int) and family == "qwen" else END_SOON


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_must_call_a_tool_does(family: str) -> None:
    engine = family_engine(family)
    for seed in range(3):
        prompt = ChatPrompt([QUESTION], [ADD, SAY], tool_choice="required", parallel_tool_calls=seed == 0)
        tokens, end = ask(engine, prompt, seed=seed, max_tokens=900, logit_bias=end_soon(family))
        calls = only_calls_of(tokens)
        assert end.finish_reason == "stop"
        assert 1 <= len(calls) <= (16 if seed == 0 else 1)
        for name, arguments in calls:
            assert json.loads(arguments).keys() == {"add": {"a", "b"}, "say": {"text"}}[name]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_calls_the_tool_that_is_named_and_only_once(family: str) -> None:
    prompt = ChatPrompt([QUESTION], [ADD, SAY], named_tool="say")
    tokens, _ = ask(family_engine(family), prompt, max_tokens=900, logit_bias=end_soon(family))
    assert [name for name, _ in only_calls_of(tokens)] == ["say"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tool_without_parameters_is_called_without_arguments(family: str) -> None:
    now = {"type": "function", "function": {"name": "now"}}
    prompt = ChatPrompt([QUESTION], [now], named_tool="now", parallel_tool_calls=False)
    tokens, _ = ask(family_engine(family), prompt, max_tokens=900, logit_bias=end_soon(family))
    assert [json.loads(arguments) for _, arguments in only_calls_of(tokens)] == [{}]


def test_a_strict_tool_is_called_as_its_schema_says_or_not_at_all() -> None:
    """A bias makes the random model begin calls; what it then says of its own accord is nothing like the schema."""
    engine = family_engine("qwen")
    begin = chat_tokenizer("qwen").convert_tokens_to_ids("<tool_call>")
    found = []
    for seed in range(6):
        tokens, _ = ask(engine, ChatPrompt([QUESTION], [SAY]), seed=seed, logit_bias={begin: 4.0}, max_tokens=400)
        calls = calls_of(parts_of(tokens))
        found += [arguments for _, arguments in calls if arguments.endswith("}")]
        assert len(calls) - 1 <= sum(arguments.endswith("}") for _, arguments in calls)  # max_tokens cut one off
        assert content_of(tokens).count("<tool_call>") <= 1  # the same, before it had a name
    assert len(found) > 3
    assert {json.loads(arguments)["text"] for arguments in found} <= {"yes", "no"}


@pytest.mark.parametrize("family", FAMILIES[1:])
@pytest.mark.parametrize("says", [SAY, tool("say", text={"enum": ["yes", "no"]})], ids=["strict", "not strict"])
def test_an_answer_is_a_call_or_what_its_own_grammar_demands(family: str, says: dict[str, Any]) -> None:
    """A grammar of the answer must not keep the model from calling the tools that it is offered."""
    engine = family_engine(family)
    schema = {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}
    grammar = Grammar("json_schema", json.dumps({**schema, "additionalProperties": False}))
    prompt = ChatPrompt([QUESTION], [says], parallel_tool_calls=False)
    called = 0
    for seed in range(6):
        wanted = chat_tokenizer(family).encode(FORMS[family].trigger if seed % 2 else '{"x"', add_special_tokens=False)
        bias = dict.fromkeys(wanted, 9.0) | end_soon(family)
        tokens, end = ask(engine, prompt, grammar, seed=seed, max_tokens=900, logit_bias=bias)
        assert end.finish_reason == "stop"
        calls = calls_of(parts_of(tokens))
        called += len(calls)
        if calls:
            ((name, arguments),) = calls
            assert (name, json.loads(arguments)["text"] in ("yes", "no")) == ("say", True)
            assert content_of(tokens) == ""
        else:
            assert isinstance(json.loads(content_of(tokens))["x"], bool)
    assert 0 < called < 6


@pytest.mark.parametrize("strict", [True, False])
def test_tools_are_refused_where_calls_have_no_grammar(strict: bool) -> None:
    tokenizer = chat_tokenizer("hermes")
    calls = {"open": "CALL ", "close": " END", "content": "json"}
    tokenizer.response_template = {
        "start_anchor": "assistant",
        "fields": {"content": {"content": "text"}, "tool_calls": calls},
    }
    engine = tiny_engine(tokenizer=tokenizer, eos_ids=[1], context=1000)
    grammar = None if strict else Grammar("json_schema", '{"type": "boolean"}')
    with pytest.raises(RequestError, match="no grammar") as refused:
        ask(engine, ChatPrompt([QUESTION], [tool("say", strict=strict)]), grammar)
    assert refused.value.param == "tools"


@pytest.mark.parametrize(("thinks_already", "bias"), [(True, 3.0), (False, 5.0)])
def test_reasoning_may_come_before_what_a_grammar_demands(thinks_already: bool, bias: float) -> None:
    engine = family_engine("qwen")
    to_id = chat_tokenizer("qwen").convert_tokens_to_ids
    biases = {to_id("</think>"): bias, to_id("<think>"): bias + 4}
    prompt = ChatPrompt([QUESTION], template_arguments={"enable_thinking": thinks_already})
    grammar = Grammar("json_schema", '{"type": "boolean"}')
    thought = 0
    for seed in range(4):
        tokens, end = ask(engine, prompt, grammar, seed=seed, logit_bias=biases, max_tokens=800)
        kinds = [part.kind for part in parts_of(tokens) if isinstance(part, TextPart)]
        content = "".join(
            part.text for part in parts_of(tokens) if isinstance(part, TextPart) and part.kind == "content"
        )
        assert end.finish_reason == "stop"
        assert content in ("true", "false")
        assert ("reasoning" in kinds) <= (end.reasoning_tokens > 0)
        assert end.reasoning_tokens < end.completion_tokens
        thought += end.reasoning_tokens
    assert thought > 0


@pytest.mark.parametrize("family", FAMILIES[1:])
def test_the_end_of_the_text_is_never_shown(family: str) -> None:
    engine = family_engine(family)
    for seed in range(4):
        tokens, _ = ask(engine, ChatPrompt([QUESTION], [ADD]), seed=seed, logit_bias={1: 5.0}, ignore_eos=seed > 1)
        assert "<eos>" not in "".join(token.text for token in tokens)
        assert all("<eos>" not in part.text for part in parts_of(tokens) if isinstance(part, TextPart))


# --- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"named_tool": "subtract"}, "tool_choice"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool("no spaces")], "tool_choice": "required"}, "tools.0.function.name"),
        ({"tools": [{"type": "function"}], "tool_choice": "required"}, "tools.0.function.name"),
        ({"tools": [tool("f", strict=True, a={"not": {}})]}, "tools"),
        ({"tools": [ADD, {"function": {"name": "f", "parameters": 3}}], "named_tool": "f"}, "tools"),
        (
            {"tools": [{"function": {"name": "f", "parameters": 3}}], "tool_choice": "required"},
            "tools",
        ),
    ],
)
def test_tools_that_cannot_be_enforced_are_refused(settings: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as refused:
        ask(family_engine("hermes"), ChatPrompt([QUESTION], **{"tools": [ADD], **settings}))
    assert refused.value.param == param


def test_keywords_that_cannot_be_enforced_are_allowed_in_tools_that_are_not_strict() -> None:
    lenient = tool("f", a={"type": "boolean", "not": {}})
    tokens, _ = ask(family_engine("hermes"), ChatPrompt([QUESTION], [lenient], named_tool="f"), max_tokens=900)
    assert only_calls_of(tokens)


def test_a_conversation_that_is_far_too_long_is_refused() -> None:
    with pytest.raises(PromptTooLong):
        ask(family_engine("hermes"), ChatPrompt([{"role": "user", "content": "word " * 200_000}]))


def test_a_conversation_can_be_tokenized_alone() -> None:
    engine = family_engine("hermes")
    tokenized = engine.tokenize(ChatPrompt([QUESTION]))
    assert engine.detokenize(tokenized.token_ids).endswith("What is 2 + 2?<|im_end|>\n<|im_start|>assistant\n")
    assert len(tokenized.tokens) == len(tokenized.token_ids)

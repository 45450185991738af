"""An answer in harmony, the format of gpt-oss: messages with a channel each, of which some are reasoning or calls."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

import contract
from inference.text.grammar import GrammarState
from inference.text.response_format import ResponseFormat
from inference.text.text_side import GenerationSettings, TextSide
from inference.weights.generation_settings import find_eos_ids
from interface.events import ArgumentsPart, Event, Part, TextPart, Token, ToolCallPart
from interface.requests import ChatPrompt, GenerationRequest, Grammar, SamplingParams
from tests.support.answer_parts import calls_of
from tests.support.chat_tokenizers import chat_tokenizer, tool
from tests.support.openai_answers import named_events
from tests.support.parsed_answers import joined, parser_of
from tests.support.tiny_models import Inbox, run_until_idle, tiny_engine

QUESTION = {"role": "user", "content": "What is 2 + 2?"}
ADD = tool("add", a={"type": "integer", "minimum": 0, "maximum": 9})
SAY = tool("say", strict=True, text={"enum": ["yes", "no"]})
BOOLEAN = Grammar("json_schema", '{"type": "boolean"}')
REASONED = "<|channel|>analysis<|message|>Two and two.<|end|><|start|>assistant"
CALL = '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}'


def reasoning(text: str) -> TextPart:
    return TextPart("reasoning", text)


def content(text: str) -> TextPart:
    return TextPart("content", text)


# --- Parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (f"{REASONED}<|channel|>final<|message|>It is 4.", [reasoning("Two and two."), content("It is 4.")]),
        ("<|channel|>final<|message|>It is 4.<|return|>", [content("It is 4.")]),
        ('<|channel|>final <|constrain|>json<|message|>{"a": 4}', [content('{"a": 4}')]),
        ("<|channel|>analysis<|message|>Two and", [reasoning("Two and")]),
        (f"{REASONED}{CALL}<|call|>", [reasoning("Two and two."), ToolCallPart("add", '{"a": 1}')]),
        (' to=functions.add<|channel|>commentary json<|message|>{"a": 1}', [ToolCallPart("add", '{"a": 1}')]),
        ('<|channel|>commentary to=functions.add<|message|>{"a": 1}', [ToolCallPart("add", '{"a": 1}')]),
        ('<|channel|>analysis to=functions.add code<|message|>{"a": 1}', [ToolCallPart("add", '{"a": 1}')]),
        (
            f"<|channel|>commentary<|message|>I add.<|end|><|start|>assistant{CALL}",
            [content("I add."), ToolCallPart("add", '{"a": 1}')],
        ),
        (f"{REASONED}<|channel|>analysis<|message|>Two and two.<|end|>", [reasoning("Two and two.\n\nTwo and two.")]),
        (
            "<|channel|>commentary<|message|>I add.<|end|><|start|>assistant<|channel|>final<|message|>4",
            [content("I add.\n\n4")],
        ),
        ("<|channel|>analysis<|message|>a<|channel|>final<|message|>b", [reasoning("a"), content("b")]),
        ("<|channel|>commentary to=it<|message|>x", [content("<|channel|>commentary to=it<|message|>x")]),
        ("It goes to=functions now", [content("It goes to=functions now")]),
    ],
)  # fmt: skip
def test_each_message_becomes_its_part_however_it_is_cut(text: str, parts: list[Part]) -> None:
    for pieces in ([text], list(text)):
        parser = parser_of("harmony")
        found = [part for piece in pieces for part in parser.feed(piece)]
        assert joined([*found, *parser.finish()]) == parts


def test_a_message_that_the_prompt_has_begun_is_continued() -> None:
    parser = parser_of("harmony", "<|start|>assistant<|channel|>final<|message|>It")
    assert [*parser.feed(" is 4."), *parser.finish()] == [content(" is 4.")]


def test_the_format_is_known_by_a_tokenizers_own_response_template_too() -> None:
    tokenizer = chat_tokenizer("plain")
    message = r"<\|channel\|>final<\|message\|>"
    calls = r"<\|channel\|>commentary to=functions\.(?P<name>\w+) <\|constrain\|>json<\|message\|>"
    tokenizer.response_template = {
        "start_anchor": "<|start|>assistant",
        "fields": {
            "content": {"open_pattern": message, "close": "<|end|>"},
            "tool_calls": {
                "open_pattern": calls,
                "close": "<|call|>",
                "content": "json",
                "transform": {"name": "{name}", "arguments": "{content}"},
            },
        },
    }
    found = ResponseFormat.of(tokenizer)
    assert found is not None
    assert found.is_harmony


# --- Where answers end ------------------------------------------------------------------------------------------------


def test_a_call_ends_the_answer_and_a_message_does_not() -> None:
    """Some files of gpt-oss name <|end|> as an end, and some leave out <|call|>."""
    tokenizer = chat_tokenizer("harmony")
    tokenizer.eos_token = "<|end|>"
    assert find_eos_ids([], tokenizer) == {token("<|return|>"), token("<|call|>")}


# --- Every API --------------------------------------------------------------------------------------------------------


@cache
def text_side() -> TextSide:
    tokenizer = chat_tokenizer("harmony")
    return TextSide(tokenizer, 1000, len(tokenizer), GenerationSettings(find_eos_ids([], tokenizer)))


def answered(path: str, text: str, **body: Any) -> tuple[contract.Call, list[Event]]:
    """A call to an endpoint, and the events of an answer with this text."""
    endpoint = contract.endpoints_at(path)["POST"]
    call = endpoint.parse(contract.Incoming(json.dumps(body).encode(), models=("m",)))
    assert not isinstance(call, contract.Question)
    (encoded,) = text_side().encode(call.requests)
    answer = text_side().answer(encoded)
    ids = chat_tokenizer("harmony").encode(text, add_special_tokens=False)
    events: list[Event] = []
    answer.admit()
    for number, token_id in enumerate(ids):
        token, finish_reason = answer.append(token_id)
        assert finish_reason == ("stop" if number == len(ids) - 1 else None)
        events.append(token)
    return call, [*events, answer.finish("stop")]


def whole(call: contract.Call, events: Sequence[Event]) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(call.answer(contract.Accepted("id", [9]), events).body)
    return body


FINAL = f"{REASONED}<|channel|>final<|message|>It is 4.<|return|>"
CALLED = f"{REASONED}{CALL}<|call|>"
OPENAI_TOOL = {"type": "function", **ADD["function"]}  # type: ignore[dict-item]
ANTHROPIC_TOOL = {"name": "add", "input_schema": ADD["function"]["parameters"]}  # type: ignore[index]


def test_chat_completions_have_reasoning_content_and_calls() -> None:
    path, body = "/v1/chat/completions", {"messages": [QUESTION], "tools": [ADD]}
    done = whole(*answered(path, FINAL, **body))
    message = done["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Two and two.", "It is 4.")
    assert 10 < done["usage"]["completion_tokens_details"]["reasoning_tokens"] < done["usage"]["completion_tokens"]
    choice = whole(*answered(path, CALLED, **body))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}


def test_responses_have_items_of_reasoning_messages_and_calls() -> None:
    body = {"input": "What is 2 + 2?", "tools": [OPENAI_TOOL]}
    thought, message = whole(*answered("/v1/responses", FINAL, **body))["output"]
    assert (thought["type"], thought["content"][0]["text"]) == ("reasoning", "Two and two.")
    assert (message["type"], message["content"][0]["text"]) == ("message", "It is 4.")
    thought, call = whole(*answered("/v1/responses", CALLED, **body))["output"]
    assert (thought["type"], call["type"], call["name"], call["arguments"]) == (
        "reasoning",
        "function_call",
        "add",
        '{"a": 1}',
    )


def test_messages_have_blocks_of_thinking_text_and_tool_use_streamed_too() -> None:
    body = {"max_tokens": 900, "messages": [QUESTION], "tools": [ANTHROPIC_TOOL]}
    thinking, text = whole(*answered("/v1/messages", FINAL, **body))["content"]
    assert (thinking["type"], thinking["thinking"], text["text"]) == ("thinking", "Two and two.", "It is 4.")
    answer = whole(*answered("/v1/messages", CALLED, **body))
    assert (answer["stop_reason"], answer["content"][1]["input"]) == ("tool_use", {"a": 1})
    call, events = answered("/v1/messages", FINAL, **body)
    writer = call.writer(contract.Accepted("id", [9]))
    sent = named_events(b"".join([writer.start(), *map(writer.event, events), writer.end()]))
    deltas = [event["delta"] for event in sent if event["type"] == "content_block_delta"]
    assert "".join(delta.get("thinking", "") for delta in deltas) == "Two and two."
    assert "".join(delta.get("text", "") for delta in deltas) == "It is 4."


# --- Grammars ---------------------------------------------------------------------------------------------------------


def accepts(prompt: ChatPrompt, grammar: Grammar | None, text: str) -> bool:
    """Whether a request's grammar lets the model write this text and end it there."""
    (encoded,) = text_side().encode([GenerationRequest(prompt, SamplingParams(), grammar, parse_response=True)])
    state = encoded.grammar.start()
    for token_id in chat_tokenizer("harmony").encode(text, add_special_tokens=False):
        if not is_allowed(state, token_id):
            return False
        state.advance(token_id)
    return state.is_finished or is_allowed(state, token("<|return|>"))


def token(text: str) -> int:
    (token_id,) = chat_tokenizer("harmony").encode(text, add_special_tokens=False)
    return int(token_id)


def is_allowed(state: GrammarState, token_id: int) -> bool:
    return bool(state.mask()[token_id // 32] >> (token_id % 32) & 1)


SAID = '<|channel|>commentary to=functions.say <|constrain|>json<|message|>{"text": "yes"}'
WRONG = SAID.replace("yes", "perhaps")
ANSWERED = "<|channel|>final<|message|>It is 4."
PREAMBLE = "<|channel|>commentary<|message|>I add.<|end|><|start|>assistant"


@pytest.mark.parametrize(
    ("text", "is_accepted"),
    [
        (CALL, True),
        (SAID, True),
        (REASONED + CALL, True),
        (REASONED + PREAMBLE + REASONED + CALL, True),
        (WRONG, False),
        (ANSWERED, False),
        (REASONED + ANSWERED, False),
        (CALL[:-1], False),
        ("4", False),
    ],
)
def test_a_forced_call_may_come_after_reasoning(text: str, is_accepted: bool) -> None:
    assert accepts(ChatPrompt([QUESTION], [ADD, SAY], tool_choice="required"), None, text) == is_accepted


@pytest.mark.parametrize(
    ("text", "is_accepted"),
    [(SAID, True), (REASONED + SAID, True), (ANSWERED, True), (REASONED + ANSWERED, True), (WRONG, False)],
)
def test_a_strict_tool_is_called_as_its_schema_says_or_not_at_all(text: str, is_accepted: bool) -> None:
    assert accepts(ChatPrompt([QUESTION], [SAY]), None, text) == is_accepted


@pytest.mark.parametrize(
    ("text", "is_accepted"),
    [
        (SAID, True),
        (REASONED + "<|channel|>final<|message|>true", True),
        ("<|channel|>final<|message|>perhaps", False),
        ("true", False),
    ],
)
def test_an_answer_with_a_grammar_is_a_call_or_has_it_in_the_final_message(text: str, is_accepted: bool) -> None:
    assert accepts(ChatPrompt([QUESTION], [SAY]), BOOLEAN, text) == is_accepted


def test_an_answer_that_is_all_grammar_begins_in_the_final_message() -> None:
    (encoded,) = text_side().encode([GenerationRequest(ChatPrompt([QUESTION]), SamplingParams(), BOOLEAN)])
    assert text_side().detokenize(encoded.prompt_ids).endswith("<|start|>assistant<|channel|>final<|message|>")
    assert accepts(ChatPrompt([QUESTION]), BOOLEAN, "true")
    assert not accepts(ChatPrompt([QUESTION]), BOOLEAN, "<|channel|>final<|message|>true")


def test_a_call_is_streamed_while_it_is_generated() -> None:
    body = {"messages": [QUESTION], "tools": [ADD], "tool_choice": "required"}
    _, events = answered("/v1/chat/completions", f"{REASONED}{CALL}", **body)
    parts = [part for event in events if isinstance(event, Token) for part in event.parts or ()]
    assert calls_of(parts) == [("add", '{"a": 1}')]
    assert len([part for part in parts if isinstance(part, ArgumentsPart)]) > 3


def test_a_random_model_calls_the_tool_that_it_is_told_to() -> None:
    engine = tiny_engine(tokenizer=chat_tokenizer("harmony"), eos_ids=[1], context=1000)
    prompt = ChatPrompt([QUESTION], [ADD, SAY], named_tool="say")
    ends = {token("<|end|>"): 9.0, 1: 6.0}
    params = SamplingParams(max_tokens=600, temperature=1.0, seed=0, logit_bias=ends)
    request = GenerationRequest(prompt, params, parse_response=True, clamp_max_tokens=True)
    inbox = Inbox()
    engine.submit(engine.encode([request]), inbox)
    run_until_idle(engine)
    assert inbox.finish_reason(request.sequence_id) == "stop"
    ((name, arguments),) = calls_of([part for token in inbox.tokens(request.sequence_id) for part in token.parts or ()])
    assert (name, json.loads(arguments)["text"] in ("yes", "no")) == ("say", True)

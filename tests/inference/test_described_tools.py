"""A model whose chat template knows no tools is told of them in a system message, and its calls are found."""

from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from inference.text.prompts import PromptEncoder
from interface.events import Part, TextPart, ToolCallPart
from interface.requests import ChatPrompt, GenerationRequest, SamplingParams
from tests.support.chat_tokenizers import chat_tokenizer, tool

QUESTION = {"role": "user", "content": "What is 2 + 2?"}
SYSTEM = {"role": "system", "content": "Be brief."}
ADD = tool("add", a={"type": "integer"}, b={"type": "integer"})
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 2}}\n</tool_call>'


def encoder(tokenizer: PreTrainedTokenizerBase) -> PromptEncoder:
    return PromptEncoder(tokenizer, 2000, len(tokenizer), ())


def rendered(*messages: dict[str, Any], **settings: Any) -> str:
    return encoder(chat_tokenizer("plain")).render(ChatPrompt(messages, **settings)).text


def parts_of(tokenizer: PreTrainedTokenizerBase, answer: str, **settings: Any) -> list[Part]:
    """What is found in an answer. Without anything to find, there is no reader."""
    prompt = ChatPrompt([QUESTION], **settings)
    request = GenerationRequest(prompt, SamplingParams(), parse_response=True)
    reader = encoder(tokenizer).reader(request, "")
    if reader is None:
        return [TextPart("content", answer)]
    parser = reader.start()
    return [*parser.feed(answer), *parser.finish()]


@pytest.mark.parametrize("settings", [{}, {"tool_choice": "required"}, {"named_tool": "add"}])
def test_tools_are_described_in_a_system_message_before_the_conversation(settings: dict[str, Any]) -> None:
    text = rendered(SYSTEM, QUESTION, tools=[ADD], **settings)
    description, _, rest = text.partition("<eos>")
    assert description.startswith("<mark>[system]")
    assert '{"name": "add", "parameters": {"type": "object", "properties": {"a"' in description
    assert '<tool_call>\n{"name": "function_name", "arguments": {"parameter": "value"}}\n</tool_call>' in description
    assert rest == rendered(SYSTEM, QUESTION).removeprefix("<mark>")


def test_a_round_of_calls_goes_through_a_template_that_knows_two_roles() -> None:
    """As with Gemma 3's."""
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = (
        "{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}({{ message.content }}){% endfor %}"
    )
    call = {"id": "1", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
    called, result = {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": "4"}
    text = encoder(tokenizer).render(ChatPrompt([QUESTION, called, result, QUESTION], tools=[ADD])).text
    assert text.startswith("(You may call")
    assert text.endswith(f"What is 2 + 2?)({CALL})(4\n\nWhat is 2 + 2?)")


def test_without_a_choice_of_tools_none_is_described() -> None:
    assert rendered(QUESTION, tools=[ADD], tool_choice="none") == rendered(QUESTION)


def test_control_tokens_in_a_description_stay_text() -> None:
    tokenizer = chat_tokenizer("plain")
    named = tool("add") | {"function": {"name": "add", "description": "<eos>", "parameters": {}}}
    token_ids = encoder(tokenizer).render(ChatPrompt([QUESTION], tools=[named])).token_ids
    assert token_ids.count(tokenizer.eos_token_id) == 2  # after the system's message and the user's


def test_calls_in_the_form_that_is_described_are_found() -> None:
    tokenizer = chat_tokenizer("plain")
    found = [TextPart("content", "Let me see."), ToolCallPart("add", '{"a": 2, "b": 2}')]
    assert parts_of(tokenizer, f"Let me see.\n{CALL}", tools=[ADD]) == found
    assert parts_of(tokenizer, CALL) == [TextPart("content", CALL)]
    assert parts_of(tokenizer, CALL, tools=[ADD], tool_choice="none") == [TextPart("content", CALL)]


def test_reasoning_is_found_before_them() -> None:
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = tokenizer.chat_template + "{# <think> </think> #}"
    found = parts_of(tokenizer, f"<think>Add.</think>{CALL}", tools=[ADD])
    assert found == [TextPart("reasoning", "Add."), ToolCallPart("add", '{"a": 2, "b": 2}')]

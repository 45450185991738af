"""What a template leaves out of a conversation is shown to the model all the same."""

from typing import Any

import pytest

from inference.text.templates import ChatTemplate
from interface.requests import ChatPrompt
from tests.support.chat_tokenizers import chat_tokenizer, tool

QUESTION = {"role": "user", "content": "What is 2 + 2?"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}


def called(call_id: str, name: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": {}}}


def test_results_that_the_template_leaves_out_are_the_users() -> None:
    """As Phi-3.5's, which writes what three roles say, and nothing of others."""
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = (
        "{% for message in messages if message.role in ['system', 'user', 'assistant'] %}"
        "[{{ message.role }}]{{ message.content }}{% endfor %}"
    )
    system, answer = {"role": "system", "content": "Be brief."}, {"role": "assistant", "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "4"}
    text = ChatTemplate(tokenizer).render(ChatPrompt([system, QUESTION, answer, result])).text
    assert text == (
        "[system]Be brief.[user]What is 2 + 2?"
        '[assistant]<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 2}}\n</tool_call>[user]4'
    )


def test_calls_that_the_template_leaves_out_are_shown_as_text() -> None:
    """As DeepSeek R1's, which writes those without a content; transformers gives it none that is null."""
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = (
        "{% for message in messages %}[{{ message.role }}]"
        "{% if message.content is none %}{{ message.tool_calls }}{% else %}{{ '' + message.content }}{% endif %}"
        "{% endfor %}"
    )
    answer = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    text = ChatTemplate(tokenizer).render(ChatPrompt([QUESTION, answer])).text
    assert text.endswith('[assistant]<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 2}}\n</tool_call>')


def test_a_template_may_leave_out_calls_only_where_no_tools_are_offered() -> None:
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = (
        "{% for message in messages %}[{{ message.role }}]{{ message.content }}"
        "{% if tools %}{% for call in message.tool_calls %}({{ call.function.name }}){% endfor %}{% endif %}"
        "{% endfor %}"
    )
    template = ChatTemplate(tokenizer)
    conversation: list[dict[str, Any]] = [QUESTION, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    for tools in (None, [tool("add")], None):
        text = template.render(ChatPrompt(conversation, tools=tools)).text
        assert text.endswith("</tool_call>" if tools is None else "[assistant](add)")


def test_results_that_the_template_rewrites_stay_results() -> None:
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = (
        "{% for message in messages %}[{{ message.role }}]{{ message.content | tojson }}{% endfor %}"
    )
    result = {"role": "tool", "tool_call_id": "call_1", "content": '"four"'}
    text = ChatTemplate(tokenizer).render(ChatPrompt([QUESTION, result])).text
    assert text == r'[user]"What is 2 + 2?"[tool]"\"four\""'


@pytest.mark.parametrize("written", ["call.id|length != 9", "call['id'] | length != 9"])
def test_ids_of_calls_have_the_length_that_the_template_demands(written: str) -> None:
    """As Mistral's; the ids that clients send are those of this server or of others, and longer."""
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = (
        "{% for message in messages %}{% for call in message.tool_calls %}"
        f"{{% if {written} %}}{{{{ raise_exception('nine') }}}}{{% endif %}}{{{{ call.function.name + call.id }}}} "
        "{% endfor %}{% if message.role == 'tool' %}{{ message.content }}{{ message.tool_call_id }} {% endif %}"
        "{% endfor %}"
    )
    calls = [called("call_0123456789abcdef", "add"), called("ABCdef123", "say")]
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "of:"} for call in calls]
    answer = {"role": "assistant", "content": "", "tool_calls": calls}
    text = ChatTemplate(tokenizer).render(ChatPrompt([answer, *results])).text
    first, second, first_again, second_again = (part[3:] for part in text.split())
    assert (first, second) == (first_again, second_again)
    assert len(first_again) == 9
    assert first_again.isalnum()
    assert second_again == "ABCdef123"


def test_a_system_message_alone_is_the_users_where_the_template_takes_none() -> None:
    rendered = ChatTemplate(chat_tokenizer("mistral_list")).render(
        ChatPrompt([{"role": "system", "content": "Be brief."}])
    )
    assert rendered.text == "<mark>[INST]Be brief.[/INST]"

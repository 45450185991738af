"""A conversation becomes a prompt by the model's own template, or the client learns why it cannot."""

from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from inference.text import templates
from inference.text.templates import RESERVED_ARGUMENTS, ChatTemplate, Rendered
from interface.errors import RequestError, UnsupportedFeature, UnusablePrompt
from interface.requests import ChatPrompt
from tests.support.chat_tokenizers import TEMPLATES, chat_tokenizer, tool
from tests.support.tiny_models import byte_tokenizer

QUESTION = {"role": "user", "content": "What is 2 + 2?"}
ADD = tool("add", a={"type": "integer"}, b={"type": "integer"})
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}


def render(family: str, *messages: dict[str, Any], **settings: Any) -> Rendered:
    return ChatTemplate(chat_tokenizer(family)).render(ChatPrompt(messages=messages, **settings))


def bundled() -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained("bundled_model")
    return tokenizer


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_conversation_is_rendered_as_transformers_renders_it(family: str) -> None:
    tokenizer = chat_tokenizer(family)
    messages = [QUESTION, {"role": "assistant", "content": "4"}, QUESTION]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    rendered = render(family, *messages)
    assert rendered.token_ids == expected
    assert rendered.text == tokenizer.decode(list(rendered.token_ids))


def test_the_bundled_model_gets_the_prompt_that_it_was_trained_on() -> None:
    tokenizer = bundled()
    rendered = ChatTemplate(tokenizer).render(ChatPrompt([{"role": "system", "content": "Be brief."}, QUESTION]))
    assert rendered.text == "<|bos|><|system|>Be brief.<|user|>What is 2 + 2?<|assistant|>"
    assert rendered.token_ids == tokenizer.encode(rendered.text, add_special_tokens=False)


@pytest.mark.parametrize("family", ["plain", "llama3"])
@pytest.mark.parametrize("add_special_tokens", [False, True])
def test_no_bos_token_comes_twice(family: str, add_special_tokens: bool) -> None:
    rendered = render(family, QUESTION, add_special_tokens=add_special_tokens)
    assert rendered.token_ids.count(chat_tokenizer(family).bos_token_id) == 1


# --- Messages ---------------------------------------------------------------------------------------------------------


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "2 + 2?"}]
    assert "[user]What is\n2 + 2?" in render("plain", {"role": "user", "content": parts}).text


def test_a_template_that_reads_only_parts_gets_parts() -> None:
    tokenizer = bundled()
    tokenizer.chat_template = (
        "{% for message in messages %}{% for part in message.content %}({{ part.text }}){% endfor %}{% endfor %}"
    )
    assert ChatTemplate(tokenizer).render(ChatPrompt([QUESTION])).text == "(What is 2 + 2?)"


def test_developer_is_the_system_role_where_the_template_does_not_know_it() -> None:
    assert render("plain", {"role": "developer", "content": "Be brief."}, QUESTION).text.startswith("<mark>[system]Be")


def test_arguments_of_tool_calls_may_be_json_text_or_nothing() -> None:
    for arguments, expected in [('{"a": 2}', '{"a": 2}'), ({"a": 2}, '{"a": 2}'), ("", "{}"), (None, "{}")]:
        call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
        text = render("hermes", QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]}).text
        assert f'"arguments": {expected}}}' in text


def test_tool_calls_and_results_go_through_the_template() -> None:
    answer = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "4"}
    for family, expected in {
        "hermes": '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 2}}\n</tool_call>',
        "llama3": '{"name": "add", "parameters": {"a": 2, "b": 2}}',
        "mistral_list": '[TOOL_CALLS][{"name": "add", "arguments": {"a": 2, "b": 2}}]',
        "mistral_named": '[TOOL_CALLS]add[ARGS]{"a": 2, "b": 2}',
    }.items():
        text = render(family, QUESTION, answer, result, tools=[ADD]).text
        assert expected in text
        assert text.count("4") >= 1


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        # As Qwen3's and QwQ's: the content is read, whether there is one or not.
        ("{{ message.content.split('</think>')[-1] }}{{ message.tool_calls[0].function.arguments.a }}", "2"),
        # As functionary's: arguments are text.
        ("{{ '' + message.tool_calls[0].function.arguments }}", '{"a": 2, "b": 2}'),
        ("{{ message.content + message.tool_calls[0].function.arguments }}", '{"a": 2, "b": 2}'),
        # And one that tells a missing content from an empty one.
        ("{% if message.content is defined %}none {% endif %}{{ message.tool_calls[0].function.name }}", "add"),
    ],
)
def test_calls_come_in_the_form_that_the_template_can_read(template: str, expected: str) -> None:
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = f"{{% for message in messages %}}{template}{{% endfor %}}"
    answer = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    rendered = ChatTemplate(tokenizer).render(ChatPrompt([answer], add_generation_prompt=False))
    assert rendered.text == expected
    assert tokenizer.decode(list(rendered.token_ids)) == expected


def test_a_template_that_refuses_calls_in_any_form_says_why() -> None:
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = "{{ raise_exception('No tool_calls here') }}"
    with pytest.raises(RequestError, match="No tool_calls here"):
        ChatTemplate(tokenizer).render(ChatPrompt([{"role": "assistant", "content": None, "tool_calls": [CALL]}]))


def test_a_template_without_tool_calls_shows_them_as_text() -> None:
    answer = {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]}
    text = render("plain", QUESTION, answer, {"role": "tool", "content": "4"}).text
    assert 'Let me see.\n<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 2}}\n</tool_call><eos>[tool]4' in text


def test_tool_calls_shown_as_text_have_the_form_of_the_models_family() -> None:
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = tokenizer.chat_template + "{# List of tools: [ #}"
    answer = {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]}
    text = ChatTemplate(tokenizer).render(ChatPrompt([QUESTION, answer])).text
    assert "[assistant]<|tool_call_start|>[add(a=2, b=2), add(a=2, b=2)]<|tool_call_end|><eos>" in text


def test_a_template_that_calls_tools_by_another_name_gets_them() -> None:
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = "<tools>{{ xml_tools | tojson }}" + tokenizer.chat_template
    text = ChatTemplate(tokenizer).render(ChatPrompt([QUESTION], [tool("add")])).text
    assert text.startswith('<tools>[{"type": "function", "function": {"name": "add"')


def test_a_last_message_of_the_assistant_can_be_continued() -> None:
    begun = {"role": "assistant", "content": "The answer is"}
    settings: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
    rendered = render("plain", QUESTION, begun, **settings)
    assert rendered.text == "<mark>[user]What is 2 + 2?<eos>[assistant]The answer is"
    assert chat_tokenizer("plain").decode(list(rendered.token_ids)) == rendered.text


# --- Arguments --------------------------------------------------------------------------------------------------------


def test_a_request_may_set_the_templates_own_switches() -> None:
    assert render("qwen", QUESTION, template_arguments={"enable_thinking": True}).text.endswith("assistant\n<think>\n")
    assert render("qwen", QUESTION, template_arguments={"enable_thinking": False}).text.endswith("assistant\n")


@pytest.mark.parametrize("name", [*sorted(RESERVED_ARGUMENTS), "bos_token", "eos_token", "pad_token"])
def test_a_request_cannot_replace_what_the_template_is_given(name: str) -> None:
    plain = render("plain", QUESTION)
    assert render("plain", QUESTION, template_arguments={name: "{{ 1 }}"}) == plain


def test_only_simple_values_reach_the_template() -> None:
    plain = render("qwen", QUESTION)
    assert render("qwen", QUESTION, template_arguments={"enable_thinking": ["yes"], "other": {"a": 1}}) == plain


# --- What cannot be rendered ------------------------------------------------------------------------------------------


def refusal(kind: type[RequestError], family: str, *messages: dict[str, Any], **settings: Any) -> RequestError:
    with pytest.raises(kind) as refused:
        render(family, *messages, **settings)
    return refused.value


REPEATS = "{% for message in messages %}{{ tools }}{{ message.content }}{% endfor %}"
OF_MACRO = "{% macro all() %}" + REPEATS + "{% endmacro %}{{ all() }}"


@pytest.mark.parametrize("template", [REPEATS, OF_MACRO])
def test_a_template_that_writes_too_much_for_a_conversation_is_stopped(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body with a megabyte of tools and thousands of messages would become gigabytes."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    chat = ChatTemplate(tokenizer)
    longest = len(chat.render(ChatPrompt([QUESTION] * 20, tools=[ADD])).text)
    monkeypatch.setattr(templates, "MOST_WRITTEN", longest)
    assert len(chat.render(ChatPrompt([QUESTION] * 20, tools=[ADD])).text) == longest
    with pytest.raises(RequestError, match=f"template writes more than {longest:,} characters") as refused:
        chat.render(ChatPrompt([QUESTION] * 21, tools=[ADD]))
    assert refused.value.param == "messages"


def test_without_a_template_the_client_learns_that_completions_go_on() -> None:
    with pytest.raises(UnusablePrompt, match=r"no chat template.*/v1/completions") as refused:
        ChatTemplate(byte_tokenizer()).render(ChatPrompt([QUESTION]))
    assert refused.value.param == "messages"


def test_a_model_whose_only_template_is_for_tools_says_so() -> None:
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = {"tool_use": "{{ tools[0].function.name }}"}
    template = ChatTemplate(tokenizer)
    assert template.render(ChatPrompt([QUESTION], tools=[ADD])).text == "add"
    with pytest.raises(UnusablePrompt, match=r"no chat template for messages without tools \(it has tool_use\)"):
        template.render(ChatPrompt([QUESTION]))


def test_what_a_template_refuses_is_the_requests_fault() -> None:
    error = refusal(RequestError, "mistral_list", {"role": "critic", "content": "x"})
    assert "Only user, assistant and tool, not critic" in str(error)
    assert error.param == "messages"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "x"}, "messages.0.role"),
        ({"role": 3, "content": "x"}, "messages.0.role"),
        ({"role": "user", "content": 3}, "messages.0.content"),
        ({"role": "user", "content": [3]}, "messages.0.content.0"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages.0.tool_calls.0"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": 3}}]}, "messages.0.tool_calls.0"),
    ],
)
def test_an_error_names_the_place_in_the_messages(message: dict[str, Any], param: str) -> None:
    assert refusal(RequestError, "hermes", message).param == param


@pytest.mark.parametrize("arguments", ["{", "[]", "3", "[" * 100_000])
def test_arguments_that_are_no_object_are_the_requests_fault(arguments: str) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    error = refusal(RequestError, "hermes", QUESTION, {"role": "assistant", "tool_calls": [call]})
    assert error.param == "messages.1.tool_calls.0.function.arguments"
    assert len(str(error)) < 500


def test_a_part_that_is_not_text_is_named() -> None:
    parts = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    error = refusal(UnsupportedFeature, "hermes", {"role": "user", "content": parts})
    assert error.param == "messages.0.content.1"
    assert "image_url" in str(error)


def test_no_messages_are_refused() -> None:
    assert refusal(RequestError, "plain").param == "messages"


def test_only_the_assistants_last_message_can_be_continued() -> None:
    begun = {"role": "assistant", "content": "It is"}
    assert (
        refusal(RequestError, "plain", QUESTION, begun, continue_final_message=True).param == "continue_final_message"
    )
    settings: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}
    assert "'user'" in str(refusal(RequestError, "plain", QUESTION, **settings))


def test_tools_are_shown_unless_none_is_to_be_called() -> None:
    assert "add" in render("hermes", QUESTION, tools=[ADD]).text
    assert "add" not in render("hermes", QUESTION, tools=[ADD], tool_choice="none").text


def test_a_template_may_fail_in_any_way() -> None:
    for template in [
        "{{ messages[0].content.nothing.at_all }}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{{ [] + messages }}{{ x() }}",
    ]:
        tokenizer = bundled()
        tokenizer.chat_template = template
        with pytest.raises(RequestError, match="cannot render"):
            ChatTemplate(tokenizer).render(ChatPrompt([QUESTION]))


# --- Templates that read less than a conversation may have ------------------------------------------------------------


def called(call_id: str, name: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": {}}}


def test_a_template_that_reads_one_call_of_a_message_gets_each_with_its_result() -> None:
    calls = {"role": "assistant", "content": "", "tool_calls": [called("1", "add"), called("2", "say")]}
    results = [{"role": "tool", "tool_call_id": call_id, "content": f"of {call_id}"} for call_id in "21"]
    text = render("harmony", QUESTION, calls, *results).text
    assert text.endswith(
        "<|start|>assistant to=functions.add<|channel|>commentary json<|message|>{}<|call|>"
        '<|start|>functions.add to=assistant<|channel|>commentary<|message|>"of 1"<|end|>'
        "<|start|>assistant to=functions.say<|channel|>commentary json<|message|>{}<|call|>"
        '<|start|>functions.say to=assistant<|channel|>commentary<|message|>"of 2"<|end|><|start|>assistant'
    )


def test_reasoning_and_text_before_a_call_are_both_shown_to_a_template_that_takes_one_of_them() -> None:
    message = {"role": "assistant", "content": "I add.", "reasoning_content": "Hm.", "tool_calls": [called("1", "add")]}
    text = render("harmony", QUESTION, message).text
    assert "<|channel|>analysis<|message|>Hm.\n\nI add.<|end|><|start|>assistant to=functions.add" in text


def test_a_tool_without_a_description_has_an_empty_one_where_the_template_counts_on_it() -> None:
    assert "<|message|>// \ntype add = {" in render("harmony", QUESTION, tools=[ADD]).text


def test_a_parameter_without_a_description_has_an_empty_one_where_the_template_counts_on_it() -> None:
    """As Command R's does."""
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = "{{ '[a: ' + tools[0].function.parameters.properties.a.description + ']' }}"
    assert ChatTemplate(tokenizer).render(ChatPrompt([QUESTION], tools=[ADD])).text == "[a: ]"


@pytest.mark.parametrize("family", ["harmony", "hermes"])
def test_no_system_message_is_lost(family: str) -> None:
    first, second = {"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Speak French."}
    text = render(family, first, QUESTION, second, QUESTION).text
    assert text.index("Be brief.") < text.index("Speak French.")
    assert (text.index("Speak French.") < text.index("2 + 2")) == (family == "harmony")


def test_a_system_message_begins_the_users_where_the_template_takes_none() -> None:
    """As with Gemma 2's and Mistral's first templates."""
    system = {"role": "system", "content": "Be brief."}
    rendered = render("mistral_list", system, QUESTION, {"role": "assistant", "content": "4"}, QUESTION)
    assert rendered.text == "<mark>[INST]Be brief.\n\nWhat is 2 + 2?[/INST]4<eos>[INST]What is 2 + 2?[/INST]"


@pytest.mark.parametrize("reads", ["message.role == 'user'", "message.role != 'system' or message.content == 'x'"])
def test_a_system_message_that_the_template_leaves_out_begins_the_users(reads: str) -> None:
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = f"{{% for message in messages if {reads} %}}({{{{ message.content }}}}){{% endfor %}}"
    system = {"role": "system", "content": " Be brief.\n"}
    text = ChatTemplate(tokenizer).render(ChatPrompt([system, QUESTION], add_generation_prompt=False)).text
    assert text == "( Be brief.\n\n\nWhat is 2 + 2?)"


def test_a_system_message_that_is_left_out_in_any_form_does_not_refuse_the_conversation() -> None:
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = "{% for message in messages %}({{ message.content | upper }}){% endfor %}"
    system = {"role": "system", "content": "Be brief."}
    rendered = ChatTemplate(tokenizer).render(ChatPrompt([system, QUESTION], add_generation_prompt=False))
    assert rendered.text == "(BE BRIEF.)(WHAT IS 2 + 2?)"


def test_what_the_user_says_in_turn_is_one_message_where_roles_must_alternate() -> None:
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = (
        "{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}({{ message.content }}){% endfor %}"
    )
    messages = [{"role": "system", "content": "Be brief."}, QUESTION, QUESTION]
    text = ChatTemplate(tokenizer).render(ChatPrompt(messages, add_generation_prompt=False)).text
    assert text == "(Be brief.\n\nWhat is 2 + 2?\n\nWhat is 2 + 2?)"


def test_a_template_that_counts_on_tools_gets_none_of_them() -> None:
    tokenizer = chat_tokenizer("plain")
    tokenizer.chat_template = "{% for tool in tools %}{{ tool }}{% endfor %}{{ messages[0].content }}"
    assert ChatTemplate(tokenizer).render(ChatPrompt([QUESTION], add_generation_prompt=False)).text == "What is 2 + 2?"

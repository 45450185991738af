"""The items of a conversation may be of any type that OpenAI's SDK knows, and some of them change settings."""

from typing import Any

import pytest
from openai.types.beta.beta_response_input_item_param import BetaResponseInputItemParam
from openai.types.responses import ResponseInputItemParam, ToolParam

from contract.conversation import thinking_switches
from interface.requests import ChatPrompt
from tests.support.openai_answers import parse, refused, tokens, whole
from tests.support.typed_samples import samples_of

PATH = "/v1/responses"
HI = {"role": "user", "content": "hi"}
OF_THIS_SERVER = ("compaction", "compaction_trigger", None)
"""The types of items that mean something else here: what it has kept or summed up itself."""


def function(name: str, description: str = "") -> dict[str, Any]:
    return {"type": "function", "name": name, "description": description, "parameters": {}, "strict": False}


def added(*tools: dict[str, Any]) -> dict[str, Any]:
    return {"type": "additional_tools", "role": "developer", "tools": list(tools)}


def update(**settings: Any) -> dict[str, Any]:
    return {"type": "configuration_update", **settings}


def prompt_of(*items: Any, **body: Any) -> ChatPrompt:
    prompt = parse(PATH, input=[HI, *items, HI], **body).requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt


def offered(prompt: ChatPrompt) -> list[tuple[str, str]]:
    functions = [tool["function"] for tool in prompt.tools or ()]
    return [(function["name"], function.get("description", "")) for function in functions]


ITEMS = [
    item
    for item in [*samples_of(ResponseInputItemParam), *samples_of(BetaResponseInputItemParam)]
    if item.get("type", item.get("role")) not in OF_THIS_SERVER
]


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: str(item.get("type")))
def test_an_item_of_any_type_may_be_in_a_conversation(item: dict[str, Any]) -> None:
    if item.get("type") == "function_call":
        item = item | {"arguments": "{}"}
    prompt = prompt_of(item)
    assert [message["content"] for message in (prompt.messages[0], prompt.messages[-1])] == ["hi", "hi"]


@pytest.mark.parametrize("tool", [*samples_of(ToolParam)], ids=lambda tool: str(tool["type"]))
def test_a_tool_of_any_type_may_be_offered(tool: dict[str, Any]) -> None:
    prompt_of(tools=[tool], tool_choice="none")


def test_items_offer_more_tools_and_replace_others() -> None:
    prompt = prompt_of(added(function("b")), added(function("a", "new")), tools=[function("a")])
    assert offered(prompt) == [("a", "new"), ("b", "")]
    search = {"type": "tool_search_output", "execution": "client", "tools": [function("c")]}
    assert offered(prompt_of(search)) == [("c", "")]
    named = parse(PATH, input=[HI, added(function("b"))], tool_choice={"type": "function", "name": "b"})
    assert named.requests[0].prompt.named_tool == "b"
    assert refused(PATH, input=[HI, added({"type": "function"})])["param"] == "input.1.tools.0.name"


def test_tools_that_items_offer_stay_for_what_follows() -> None:
    first = whole(parse(PATH, input=[HI, added(function("b"))]), tokens(["4"]))
    prompt = parse(PATH, input="So?", previous_response_id=first["id"]).requests[0].prompt
    assert offered(prompt) == [("b", "")]


def test_items_replace_the_effort_and_the_form_of_the_text() -> None:
    low = {**thinking_switches(True), "reasoning_effort": "low"}
    body: dict[str, Any] = {"reasoning": {"effort": "high"}, "text": {"format": {"type": "json_object"}}}
    assert prompt_of(update(reasoning={"effort": "low"}), **body).template_arguments == low
    call = parse(PATH, input=[update(text={"format": {"type": "text"}}), HI], **body)
    assert call.requests[0].grammar is None
    assert call.requests[0].prompt.template_arguments["reasoning_effort"] == "high"
    assert whole(call, tokens(["4"]))["text"] == {"format": {"type": "text"}}
    wrong = update(reasoning={"effort": 5})
    assert refused(PATH, input=[HI, wrong])["param"] == "input.1.reasoning.effort"


def test_a_request_to_sum_up_is_told_where_that_is_done() -> None:
    assert "/v1/responses/compact" in refused(PATH, input=[HI, {"type": "compaction_trigger"}])["message"]

"""The page at `/docs` in a real browser: it shows openapi.json, and its examples can be tried."""

import json
import re
from typing import Any

import pytest

import contract
from config import VERSION
from tests.support.page_helpers import PHONE, OpenPage, address, expect, overflow
from tests.support.serving import Service, wait_until

pytest_plugins = ["tests.support.browser"]

DOCUMENT = json.loads(contract.openapi_document(VERSION).body)


@pytest.fixture
def page(service: Service, open_page: OpenPage) -> Any:
    page = open_page(address(service, "/docs"))
    expect(page.locator(".operation")).to_have_count(sum(len(item) for item in DOCUMENT["paths"].values()))
    return page


def row(page: Any, operation: str, field: str) -> list[str]:
    """The words that the table of an operation's body has for a field."""
    table = page.locator(f"#{operation} > .fields").last
    found = table.locator("tr", has=page.locator(f"th code:text-is('{field}')"))
    texts: list[str] = found.locator("td").all_text_contents()
    return texts


def test_every_operation_and_every_answer_is_there(page: Any) -> None:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            section = page.locator(f"#{operation['operationId']}")
            assert section.locator("h2").text_content() == method.upper() + path
            shown = section.locator(".answer summary code:first-child").all_text_contents()
            assert shown == sorted(operation["responses"])


def test_every_field_of_the_body_has_its_type_default_range_and_meaning(page: Any) -> None:
    properties = DOCUMENT["components"]["schemas"]["GenerateBody"]["properties"]
    for name, field in properties.items():
        words = row(page, "generate", name)
        assert words[1] == ("required" if name == "prompt" else json.dumps(field["default"]).removesuffix(".0"))
        assert words[3] == field["description"].replace("`", "")
    assert row(page, "generate", "prompt")[:3] == ["string", "required", "at least 1 character"]
    assert row(page, "generate", "temperature")[:3] == ["number or null", "null", "from 0 up to 2"]
    assert row(page, "generate", "top_p")[:3] == ["number or null", "null", "above 0 up to 1"]
    assert row(page, "generate", "seed")[:3] == ["integer or null", "null", "from −2⁶³ up to 2⁶³ − 1"]


def test_what_a_body_must_have_comes_first(page: Any) -> None:
    names = page.locator("#generate > .fields").last.locator("th code").all_text_contents()
    assert names[0] == "prompt"
    assert sorted(names) == sorted(DOCUMENT["components"]["schemas"]["GenerateBody"]["properties"])


def test_parameters_are_listed_by_their_place_in_a_request(page: Any) -> None:
    operation = DOCUMENT["paths"]["/v1/responses/{name}"]["get"]
    section = page.locator(f"#{operation['operationId']}")
    for title, place in (("Path", "path"), ("Query", "query"), ("Headers", "header")):
        names = section.locator(f"h3:text-is('{title}') + .fields th code").all_text_contents()
        assert names == [parameter["name"] for parameter in operation["parameters"] if parameter["in"] == place] != []


def test_the_streams_events_are_described_with_an_example(page: Any) -> None:
    stream = page.locator("#generate .media", has_text="text/event-stream")
    for event in ("FirstToken", "NextToken", "Closing", "StreamError"):
        expect(stream.locator("h5", has_text=event)).to_be_visible()
    for field in ("prefill_time_ms", "step_ms", "finish_reason", "error.message"):
        expect(stream.locator(f"th code:text-is('{field}')").first).to_be_visible()
    expect(stream.locator("pre")).to_contain_text("data: [DONE]")


def test_a_refusals_nested_fields_are_listed(page: Any) -> None:
    answer = page.locator("#generate .answer", has_text="422")
    answer.locator("summary").click()
    expect(answer.locator("th code:text-is('detail[].loc')")).to_be_visible()


def test_trying_generate_shows_each_event_as_it_comes(service: Service, page: Any) -> None:
    service.engine.hold()
    page.fill("#generate textarea", '{"prompt": "count 3", "stream": true}')
    page.click("#generate button:text('Send')")
    output = page.locator("#generate .output")
    expect(output).to_contain_text("content-type: text/event-stream")
    for made in (1, 2):
        service.engine.release(1)
        expect(output.locator(".event")).to_have_count(made)
    service.engine.release()
    expect(output).to_contain_text("data: [DONE]")
    expect(output).to_contain_text('"finish_reason"')


def test_stopping_a_try_stops_the_engine(service: Service, page: Any) -> None:
    service.engine.hold()
    page.fill("#generate textarea", '{"prompt": "count 300", "stream": true}')
    page.click("#generate button:text('Send')")
    service.engine.release(1)
    expect(page.locator("#generate .event")).to_have_count(1)
    page.click("#generate button:text('Stop')")
    wait_until(lambda: len(service.engine.aborted) == 1, "the abort")
    expect(page.locator("#generate [role=status]")).to_have_text("Stopped.")


def test_trying_shows_whole_answers_and_refusals_too(page: Any) -> None:
    page.fill("#generate textarea", '{"prompt": "hello"}')
    page.click("#generate button:text('Send')")
    expect(page.locator("#generate .output")).to_contain_text('"text": "Hello, world!"')
    page.fill("#generate textarea", '{"prompt": 5}')
    page.focus("#generate textarea")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#generate [role=status]")).to_contain_text("422")
    expect(page.locator("#generate .output")).to_contain_text("Input should be a valid string")
    page.click("#health button:text('Send')")
    expect(page.locator("#health .output")).to_contain_text('"generated_tokens": 4')


def test_a_request_is_shown_as_curl_and_as_a_line_of_python(page: Any) -> None:
    commands = page.locator("#v1_messages .commands pre")
    page.locator("#v1_messages summary", has_text="The same elsewhere").click()
    page.fill(
        "#v1_messages textarea",
        """{"max_tokens": 5, "stream": true, "messages": [{"role": "user", "content": "it's"}]}""",
    )
    expect(commands.first).to_contain_text("curl -N http://127.0.0.1:")
    expect(commands.first).to_contain_text("""'\\''s""")
    expect(commands.last).to_contain_text("from anthropic import Anthropic")
    expect(commands.last).to_contain_text("max_tokens=5, stream=True, messages=[{")


def test_the_commands_are_those_of_the_method_and_the_names_in_the_path(page: Any) -> None:
    page.locator("#v1_chat_completions_get summary", has_text="The same elsewhere").click()
    commands = page.locator("#v1_chat_completions_get .commands pre")
    expect(commands.first).to_have_text(re.compile(r"curl http://127.0.0.1:\d+/v1/chat/completions"))
    expect(commands.last).to_contain_text("chat.completions.list()")
    item = "v1_conversations_name_items_item"
    page.locator(f"#{item} summary", has_text="The same elsewhere").click()
    page.fill(f"#{item} [placeholder=name]", "conv_1")
    page.fill(f"#{item} [placeholder=item]", "msg_$&")
    expect(page.locator(f"#{item} .commands pre")).to_contain_text("/v1/conversations/conv_1/items/msg_$&")


def test_a_long_answer_does_not_widen_a_phone(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service, "/docs"), viewport=PHONE, color_scheme="dark")
    page.click("#openapi button:text('Send')")
    expect(page.locator("#openapi .output")).to_contain_text('"openapi": "3.2.0"')
    page.evaluate("() => document.querySelectorAll('.answer').forEach((element) => (element.open = true))")
    assert overflow(page) <= 0


@pytest.mark.parametrize("width", [390, 840, 1100, 1280, 1920])
def test_all_that_is_said_of_a_field_is_in_sight(width: int, service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service, "/docs"), viewport={"width": width, "height": 800})
    expect(page.locator("#openapi")).to_be_attached()
    page.evaluate("() => document.querySelectorAll('.answer').forEach((element) => (element.open = true))")
    assert page.locator(".fields").evaluate_all("(all) => all.filter((one) => one.scrollWidth > one.clientWidth)") == []

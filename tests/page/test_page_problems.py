"""The page at `/` when something goes wrong, and the settings that it sends."""

import json
from typing import Any

import raw_asgi
from contract.generate import GenerateBody
from study.common.engine import ScriptedEngine
from tests.support.page_helpers import OpenPage, address, ask, expect
from tests.support.serving import Service, on_a_socket, wait_until

pytest_plugins = ["tests.support.browser"]


def test_each_problem_of_a_refused_request_is_listed(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    page.click("summary")
    page.fill("[name=max_tokens]", "0")
    page.fill("[name=temperature]", "hot")
    ask(page, "")
    problem = page.locator("#problem")
    expect(problem.locator("li")).to_have_count(3)
    expect(problem).to_contain_text("(422)")
    expect(problem).to_contain_text("prompt: String should have at least 1 character.")
    expect(problem).to_contain_text("max_tokens: Input should be greater than or equal to 1. It got 0.")
    expect(problem).to_contain_text('temperature: Input should be a valid number. It got "hot".')


def test_a_full_queue_is_explained_with_the_time_to_wait(browser: Any, open_page: OpenPage) -> None:
    with on_a_socket(raw_asgi.create_app, ScriptedEngine(slots=1, max_waiting=0)) as service:
        first, second = open_page(address(service)), open_page(address(service))
        service.engine.hold()
        ask(first, "count 5")
        wait_until(lambda: service.engine.counters().running == 1, "the first request")
        ask(second, "hello")
        expect(second.locator("#problem")).to_have_text(
            "The server takes no request just now (503). the script has no more room. Try again in 1 second."
        )


def test_an_error_inside_the_stream_is_shown_after_the_tokens(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    ask(page, "explode")
    expect(page.locator("#problem")).to_have_text("The engine failed after 1 token: RuntimeError: the script says so")
    expect(page.locator("#answer .token")).to_have_count(1)
    expect(page.locator("#server")).to_contain_text("engine failed")


def test_a_server_that_shuts_down_in_the_middle_of_an_answer_says_so(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    end = 'data: {"error":{"type":"shutdown","message":"The server is shutting down"}}\n\ndata: [DONE]\n\n'
    page.route("**/generate", lambda route: route.fulfill(body=end, content_type="text/event-stream"))
    ask(page, "hello")
    expect(page.locator("#problem")).to_have_text("The server is shutting down and ended the answer after 0 tokens.")


def test_a_stream_that_breaks_off_is_no_answer(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    half = 'data: {"token":"Hel","token_id":0,"prefill_time_ms":1}\n\ndata: {"token":"lo"'
    page.route("**/generate", lambda route: route.fulfill(body=half, content_type="text/event-stream"))
    ask(page, "hello")
    expect(page.locator("#problem")).to_have_text("The connection broke off after 1 token, before the answer's end.")


def test_a_server_that_is_gone_is_an_error_that_says_so(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    page.route("**/generate", lambda route: route.abort())
    ask(page, "hello")
    expect(page.locator("#problem")).to_have_text("The server cannot be reached. Is it still running?")


def test_settings_reach_the_server_as_they_were_typed(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    page.click("summary")
    fields = {"max_tokens": "7", "temperature": "0", "top_p": "0.5", "top_k": "3", "seed": str(2**63 - 1)}
    for name, value in fields.items():
        page.fill(f"[name={name}]", value)
    page.fill("[name=stop]", "The end\n###")
    page.check("[name=ignore_eos]")
    with page.expect_request("**/generate") as sent:
        ask(page, "hello")
    body = json.loads(sent.value.post_data or "")
    assert body.pop("stream") is True
    assert GenerateBody.model_validate_json(json.dumps(body)) == GenerateBody(
        prompt="hello",
        max_tokens=7,
        temperature=0,
        top_p=0.5,
        top_k=3,
        seed=2**63 - 1,
        stop=["The end", "###"],
        ignore_eos=True,
    )


def test_settings_left_empty_are_the_servers_to_choose(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    page.click("summary")
    for name in ("max_tokens", "temperature"):
        page.fill(f"[name={name}]", "")
    with page.expect_request("**/generate") as sent:
        ask(page, "hello")
    assert json.loads(sent.value.post_data or "") == {"prompt": "hello", "stream": True}

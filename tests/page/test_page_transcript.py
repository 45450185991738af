"""The transcript on the page at `/`."""

import dataclasses
from contextlib import AbstractContextManager
from typing import Any

import raw_asgi
from config import Config
from tests.support.page_helpers import OpenPage, address, ask, expect
from tests.support.serving import Service, on_a_socket

pytest_plugins = ["tests.support.browser"]


NOTE_EVENT_SOURCES = """
    window.sources = [];
    window.EventSource = class extends EventSource {
        constructor(url) { super(url); window.sources.push(this); }
    };
"""


def with_transcript() -> AbstractContextManager[Service]:
    return on_a_socket(raw_asgi.create_app, config=dataclasses.replace(Config(), transcript=True))


def test_the_messages_of_the_request_show_as_they_pass(browser: Any, open_page: OpenPage) -> None:
    with with_transcript() as service:
        page = open_page(address(service))
        service.engine.hold()
        ask(page, "count 3")
        rows = page.locator("#messages tr")
        expect(page.locator("#messages")).to_contain_text("http.response.start")
        service.engine.release(1)
        expect(page.locator("#messages")).to_contain_text('data: {"token":"0 "')
        expect(page.locator("#messages")).not_to_contain_text("[DONE]")
        service.engine.release()
        expect(page.locator("#messages")).to_contain_text("[DONE]")
        expect(page.locator("#transcript-end a")).to_have_count(1)
        assert rows.nth(0).locator("td").nth(1).text_content() == "● scope"
        types = [row.locator("td").nth(2).text_content() for row in rows.all()]
        assert types[:3] == ["http", "http.request", "http.response.start"]
        assert types.count("http.response.body") == 3 + 1 + 1 + 1  # tokens, closing event, [DONE], the empty end


def test_the_transcript_is_closed_at_its_end_and_not_asked_for_again(browser: Any, open_page: OpenPage) -> None:
    with with_transcript() as service:
        page = open_page(address(service))
        page.add_init_script(NOTE_EVENT_SOURCES)
        page.reload()
        ask(page, "hello")
        expect(page.locator("#transcript-end a")).to_have_count(1)
        states = page.evaluate("() => window.sources.map((source) => source.readyState)")
        assert states[-1] == 2  # CLOSED: an open one would connect again after three seconds
        saved = page.request.get(address(service, "/" + str(page.locator("#transcript-end a").get_attribute("href"))))
        assert saved.ok


def test_a_stopped_request_shows_its_disconnect(browser: Any, open_page: OpenPage) -> None:
    with with_transcript() as service:
        page = open_page(address(service))
        service.engine.hold()
        ask(page, "count 300")
        service.engine.release(1)
        expect(page.locator("#answer .token")).to_have_count(1)
        page.click("#stop-button")
        expect(page.locator("#messages")).to_contain_text("http.disconnect")


def test_a_request_that_is_refused_shows_its_messages_too(browser: Any, open_page: OpenPage) -> None:
    with with_transcript() as service:
        page = open_page(address(service))
        ask(page, "")
        expect(page.locator("#messages")).to_contain_text("422")
        expect(page.locator("#transcript-off")).to_be_hidden()


def test_without_a_transcript_the_page_says_how_to_turn_it_on(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    asked_for: list[str] = []
    page.on("request", lambda request: asked_for.append(request.url) if "/transcript/" in request.url else None)
    ask(page, "hello")
    expect(page.locator("#answer")).to_have_text("Hello, world!")
    expect(page.locator("#transcript-off")).to_be_visible()
    expect(page.locator("#transcript-off")).to_contain_text("ENGINE_TRANSCRIPT=1")
    assert asked_for == [], "each would be an error in the browser's console, and a line in the server's log"

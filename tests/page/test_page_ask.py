"""The page at `/` in a real browser: tokens as they come, stopping, and the server's health."""

import itertools
import json
import re
from functools import partial
from typing import Any

import pytest

from tests.support.page_helpers import OpenPage, address, ask, expect, script
from tests.support.serving import Door, Service, on_a_socket, wait_until

pytest_plugins = ["tests.support.browser"]


def test_both_doors_serve_the_page(browser: Any, open_page: OpenPage, door: Door) -> None:
    with on_a_socket(door) as service:
        page = open_page(address(service))
        ask(page, "hello")
        expect(page.locator("#answer")).to_have_text("Hello, world!")


def test_tokens_appear_one_by_one_before_the_stream_ends(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    service.engine.hold()
    ask(page, "count 5")
    for made in (1, 2, 3):
        service.engine.release(1)
        expect(page.locator("#answer .token")).to_have_count(made)
        expect(page.locator("#status")).to_have_text("Tokens are arriving.")
    service.engine.release()
    expect(page.locator("#answer")).to_have_text("0 1 2 3 4 ")
    expect(page.locator("#status")).to_contain_text("Done, because the text was complete: 5 tokens")


def test_the_timeline_has_a_stroke_for_each_arrival(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    service.engine.hold()
    ask(page, "count 3")
    for made in (1, 2, 3):
        service.engine.release(1)
        expect(page.locator(".strip .arrival")).to_have_attribute("d", re.compile(rf"^(M[^M]+){{{made}}}$"))
    expect(page.locator(".strip .value").first).to_contain_text(
        re.compile("first after .* · 3 tokens · .*gap .*longest")
    )


def test_markup_in_a_token_is_shown_as_text(
    service: Service, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["<img src=x onerror='document.title=1'>", "<script>document.title=1</script>", "</div>", "&amp;"]
    script(monkeypatch, texts)
    page = open_page(address(service))
    ask(page, "anything")
    expect(page.locator("#answer .token")).to_have_count(4)
    assert page.locator("#answer").text_content() == "".join(texts)
    assert page.locator("#answer img, #answer script").count() == 0
    assert page.title() == "Token by token"


def test_line_breaks_in_a_token_stay_in_that_token(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    ask(page, "newlines")
    expect(page.locator("#answer .token")).to_have_count(3)
    assert page.locator("#answer").text_content() == "one\n\ntwo\r\nthree\u2028data: x\n\n"
    assert page.locator("#answer .newline").count() == 6


def test_a_character_that_is_held_back_shows_as_tokens_without_text(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    service.engine.hold()
    ask(page, "emoji")
    service.engine.release(3)
    expect(page.locator("#answer .held")).to_have_count(3)
    assert page.locator("#answer").text_content() == ""
    service.engine.release()
    expect(page.locator("#answer")).to_have_text("😀 你好")
    expect(page.locator("#answer .token")).to_have_count(5)


def test_events_are_read_whole_wherever_the_chunks_are_cut(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    events = (
        'data: {"token":"half an 😀"}\n\n: heartbeat\n\ndata: one\ndata: two\n\ndata\n\nevent: x\n\ndata: unfinished'
    )
    for line_end in ("\n", "\r\n", "\r"):
        read = page.evaluate(
            """async (bytes) => {
                const { serverSentEvents } = await import("./page/sse.js");
                const found = [];
                for (let size = 1; size <= bytes.length; size += 1) {
                    const body = new ReadableStream({
                        start(controller) {
                            for (let at = 0; at < bytes.length; at += size) {
                                controller.enqueue(new Uint8Array(bytes.slice(at, at + size)));
                            }
                            controller.close();
                        },
                    });
                    const events = [];
                    for await (const data of serverSentEvents(body)) events.push(data);
                    found.push(JSON.stringify(events));
                }
                return [...new Set(found)];
            }""",
            list(events.replace("\n", line_end).encode()),
        )
        assert [json.loads(line) for line in read] == [['{"token":"half an 😀"}', "one\ntwo", ""]]


def test_stop_ends_the_request_in_the_engine_and_its_counter_stands_still(
    service: Service, open_page: OpenPage
) -> None:
    page = open_page(address(service))
    service.engine.hold()
    ask(page, "count 300")
    service.engine.release(3)
    expect(page.locator("#answer .token")).to_have_count(3)
    page.click("#stop-button")
    wait_until(lambda: len(service.engine.aborted) == 1, "the abort")
    service.engine.release()
    expect(page.locator("#status")).to_have_text(
        "Stopped after 3 tokens. The engine's counter stands still at 3: it has stopped too."
    )
    expect(page.locator("#generated_tokens")).to_have_text("3")


def test_a_stopped_page_can_ask_again_at_once(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    service.engine.hold()
    ask(page, "count 300")
    service.engine.release(1)
    expect(page.locator("#answer .token")).to_have_count(1)
    page.click("#stop-button")
    expect(page.locator("#status")).to_contain_text("Stopped after 1 token.")
    ask(page, "hello")
    # What watches over the first request's end must leave pulse, clock and status to the second.
    twelfth = partial(next, itertools.chain([False] * 11, itertools.repeat(True)))
    with page.expect_request(lambda request: request.url.endswith("/health") and twelfth()):
        pass
    expect(page.locator("#timeline")).to_have_attribute("aria-busy", "true")
    expect(page.locator("#status")).to_have_text("Asked. Waiting for the first token.")
    service.engine.release()
    expect(page.locator("#answer")).to_have_text("Hello, world!")
    expect(page.locator("#status")).to_contain_text("Done")
    expect(page.locator("#timeline")).to_have_attribute("aria-busy", "false")


def test_stop_says_so_when_the_engine_goes_on_for_others(service: Service, open_page: OpenPage) -> None:
    page, other = open_page(address(service)), open_page(address(service))
    service.engine.hold()
    other.click("summary")
    other.fill("[name=max_tokens]", "4000")
    ask(other, "count 4000")
    ask(page, "count 300")
    wait_until(lambda: service.engine.counters().running == 2, "both requests")
    page.click("#stop-button")
    wait_until(lambda: len(service.engine.aborted) == 1, "the abort")

    def let_some_be_made(route: Any) -> None:
        service.engine.release(1)
        route.continue_()

    page.route("**/health", let_some_be_made)
    expect(page.locator("#status")).to_contain_text("The counter goes on")


def test_the_pulse_beats_while_tokens_come_and_rests_afterwards(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    expect(page.locator("#server")).to_have_text("bundled_model")
    service.engine.hold()
    ask(page, "count 5")
    expect(page.locator("#running")).to_have_text("1")
    expect(page.locator(".strip .answered")).to_have_attribute("d", re.compile(r"^(M[^M]+){3}"))
    service.engine.release()
    expect(page.locator("#generated_tokens")).to_have_text("5")
    expect(page.locator("#running")).to_have_text("0")
    expect(page.locator("#timeline")).to_have_attribute("aria-busy", "false")
    checks: list[str] = []
    page.on("request", lambda request: checks.append(request.url))
    page.evaluate("() => new Promise((resolve) => setTimeout(resolve, 1000))")
    assert not [url for url in checks if url.endswith("/health")]


def test_a_server_that_is_loading_is_asked_until_it_is_ready(service: Service, open_page: OpenPage) -> None:
    service.driver._status.interrupt("no engine yet")
    page = open_page(address(service))
    expect(page.locator("#server")).to_have_text("engine lost: no engine yet")
    service.driver._status.interrupt(None)
    expect(page.locator("#server")).to_have_text("bundled_model")

"""The page at `/`, in a real browser, on a real server with a scripted engine behind it."""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import raw_asgi
from config import Config
from contract.pages import PAGES
from contract.pages import page as page_file
from interface.request import GenerationRequest
from serving.driver import Driver
from tests.support import scripted_engine
from tests.support.page_helpers import PHONE, OpenPage, address, expect, overflow
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import Door, Service, on_a_socket, wait_until

pytest_plugins = ["tests.support.browser"]


@pytest.fixture
def service(browser: Any) -> Iterator[Service]:
    """The raw ASGI door. It comes after `browser`, so that no server starts for tests that are left out."""
    with on_a_socket(raw_asgi.create_app) as service:
        yield service


def ask(page: Any, prompt: str) -> None:
    page.fill("#prompt", prompt)
    page.click("#ask-button")


def script(monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    """Let the scripted engine answer every prompt with these tokens."""
    monkeypatch.setattr(scripted_engine, "script", lambda prompt: texts)


# --- Tokens -----------------------------------------------------------------------------------------------------------


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
        assert [json.loads(one) for one in read] == [['{"token":"half an 😀"}', "one\ntwo", ""]]


# --- Stopping ---------------------------------------------------------------------------------------------------------


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


# --- Health -----------------------------------------------------------------------------------------------------------


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
    service.driver.status = "loading"
    page = open_page(address(service))
    expect(page.locator("#server")).to_have_text("loading")
    service.driver.status = "ok"
    expect(page.locator("#server")).to_have_text("bundled_model")


# --- What goes wrong --------------------------------------------------------------------------------------------------


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


def test_an_error_inside_the_stream_is_told_after_the_tokens(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    ask(page, "explode")
    expect(page.locator("#problem")).to_have_text("The engine failed after 1 token: RuntimeError: the script says so")
    expect(page.locator("#answer .token")).to_have_count(1)
    expect(page.locator("#server")).to_contain_text("engine failed")


def test_a_stream_that_breaks_off_is_no_answer(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    half = 'data: {"token":"Hel","token_id":0,"prefill_time_ms":1}\n\ndata: {"token":"lo"'
    page.route("**/generate", lambda route: route.fulfill(body=half, content_type="text/event-stream"))
    ask(page, "hello")
    expect(page.locator("#problem")).to_have_text("The connection broke off after 1 token, before the answer's end.")


def test_a_server_that_is_gone_is_said_to_be_gone(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    page.route("**/generate", lambda route: route.abort())
    ask(page, "hello")
    expect(page.locator("#problem")).to_have_text("The server cannot be reached. Is it still running?")


# --- Settings ---------------------------------------------------------------------------------------------------------


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
    assert GenerationRequest.model_validate_json(json.dumps(body)) == GenerationRequest(
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


# --- The transcript ---------------------------------------------------------------------------------------------------

NOTE_EVENT_SOURCES = """
    window.sources = [];
    window.EventSource = class extends EventSource {
        constructor(url) { super(url); window.sources.push(this); }
    };
"""


def watched() -> AbstractContextManager[Service]:
    return on_a_socket(raw_asgi.create_app, config=dataclasses.replace(Config(), transcript=True))


def test_the_messages_of_the_request_show_as_they_pass(browser: Any, open_page: OpenPage) -> None:
    with watched() as service:
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
    with watched() as service:
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
    with watched() as service:
        page = open_page(address(service))
        service.engine.hold()
        ask(page, "count 300")
        service.engine.release(1)
        expect(page.locator("#answer .token")).to_have_count(1)
        page.click("#stop-button")
        expect(page.locator("#messages")).to_contain_text("http.disconnect")


def test_a_transcript_that_was_asked_for_too_early_is_asked_for_again(browser: Any, open_page: OpenPage) -> None:
    with watched() as service:
        page = open_page(address(service))
        too_early = iter((True, True))

        def answer(route: Any) -> None:
            if next(too_early, False):
                route.fulfill(status=404)
            else:
                route.continue_()

        page.route("**/transcript/*", answer)
        ask(page, "hello")
        expect(page.locator("#messages")).to_contain_text("[DONE]")
        expect(page.locator("#transcript-off")).to_be_hidden()


def test_without_a_transcript_the_page_says_how_to_turn_it_on(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    ask(page, "hello")
    expect(page.locator("#transcript-off")).to_contain_text("ENGINE_TRANSCRIPT=1")
    expect(page.locator("#answer")).to_have_text("Hello, world!")


# --- For everybody ----------------------------------------------------------------------------------------------------


def test_the_keyboard_alone_asks_and_stops(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    service.engine.hold()
    while page.evaluate("() => document.activeElement.id") != "prompt":
        page.keyboard.press("Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type("count")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("300")
    page.keyboard.press("Control+Enter")
    service.engine.release(2)
    expect(page.locator("#answer .token")).to_have_count(2)
    assert service.engine.prompts == ["count\n300"]
    page.keyboard.press("Escape")
    wait_until(lambda: len(service.engine.aborted) == 1, "the abort")
    expect(page.locator("#status")).to_contain_text("Stopped after 2 tokens.")
    page.keyboard.press("Enter")
    wait_until(lambda: len(service.engine.prompts) == 2, "the second request")


def test_what_has_the_focus_is_seen_to_have_it(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        focused = "() => [document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]"
        name, outline = page.evaluate(focused)
        assert outline == "solid" or name == "", name
        reached.append(name)
    assert {"prompt", "ask-button", "stop-button", "answer"} <= set(reached)


def test_every_control_has_a_label(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    labels = "() => [...document.querySelectorAll('input, textarea')].map((one) => one.labels.length)"
    assert set(page.evaluate(labels)) == {1}


def test_the_status_is_read_out_and_the_tokens_are_not(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    assert page.locator("#status").get_attribute("role") == "status"
    assert page.locator("#problem").get_attribute("role") == "alert"
    live = "() => document.getElementById('answer').closest('[aria-live], [role=status], [role=alert], [role=log]')"
    assert page.evaluate(live) is None


@pytest.mark.parametrize("path", ["/", "/docs", "/lesson", "/lesson?wsgi=1&starlette=2&raw_asgi=3"])
def test_no_page_is_wider_than_its_window(service: Service, open_page: OpenPage, path: str) -> None:
    page = open_page(address(service, path))
    if path == "/":
        ask(page, "newlines")
        expect(page.locator("#answer .token")).to_have_count(3)
    if path == "/docs":
        expect(page.locator(".operation").first).to_be_visible()
    for width in (320, 390, 768, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert overflow(page) <= 0, width


def test_a_long_word_breaks_instead_of_widening_a_phone(
    service: Service, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, ["x" * 400])
    page = open_page(address(service), viewport=PHONE)
    ask(page, "anything")
    expect(page.locator("#answer .token")).to_have_count(1)
    assert overflow(page) <= 0
    assert page.locator("#answer").evaluate("(box) => box.scrollWidth - box.clientWidth") == 0


def test_the_page_is_dark_for_those_who_want_it_dark(service: Service, open_page: OpenPage, tmp_path: Path) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        page = open_page(address(service), viewport=PHONE, color_scheme=scheme)
        ask(page, "hello")
        expect(page.locator("#answer")).to_have_text("Hello, world!")
        assert page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
        colours = "() => ['backgroundColor', 'color'].map((name) => getComputedStyle(document.body)[name])"
        brightness[scheme] = [sum(map(int, re.findall(r"\d+", one)[:3])) for one in page.evaluate(colours)]
    (light_paper, light_ink), (dark_paper, dark_ink) = brightness["light"], brightness["dark"]
    assert light_paper > 600 > 200 > light_ink
    assert dark_paper < 200 < 600 < dark_ink


def test_nothing_moves_for_those_who_want_it_still(service: Service, open_page: OpenPage) -> None:
    animations = {}
    for wish in ("reduce", "no-preference"):
        page = open_page(address(service), reduced_motion=wish)
        ask(page, "hello")
        expect(page.locator("#answer .token")).to_have_count(4)
        animations[wish] = page.locator("#answer .token").first.evaluate(
            "(token) => getComputedStyle(token).animationName"
        )
    assert animations == {"reduce": "none", "no-preference": "arrive"}


# --- Where it is served from ------------------------------------------------------------------------------------------


def test_the_page_works_under_a_prefix(browser: Any, open_page: OpenPage) -> None:
    elsewhere: list[str] = []

    def under_a_prefix(driver: Driver) -> Any:
        app = raw_asgi.create_app(driver)

        async def mounted(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                if not scope["path"].startswith("/llm/"):
                    elsewhere.append(scope["path"])
                scope = scope | {"root_path": "/llm"}
            await app(scope, receive, send)

        return mounted

    with on_a_socket(under_a_prefix) as service:
        page = open_page(address(service, "/llm/"))
        ask(page, "hello")
        expect(page.locator("#answer")).to_have_text("Hello, world!")
        page.click("text=Docs")
        expect(page.locator(".operation")).not_to_have_count(0)
        page.click("text=Side by side")
        expect(page.locator("#no-servers")).to_contain_text("make lesson")
    assert elsewhere == []


def test_no_file_of_the_pages_names_another_host() -> None:
    harmless = ("http://www.w3.org/2000/svg", "http://127.0.0.1:*", "http://localhost:*")
    for path in PAGES:
        text = page_file(path).body.decode()
        for one in harmless:
            text = text.replace(one, "")
        assert not re.search(r"https?://|[\"'(]//", text), path

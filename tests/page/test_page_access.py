"""The pages by keyboard, on a phone, in the dark, for a screen reader, and under a prefix."""

import re
from pathlib import Path
from typing import Any

import pytest

import raw_asgi
from contract.pages import PAGES
from contract.pages import page as page_file
from serving.driver import Driver
from tests.support.page_helpers import PHONE, OpenPage, address, ask, expect, overflow, script
from tests.support.serving import Service, on_a_socket, wait_until

pytest_plugins = ["tests.support.browser"]


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
    labels = "() => [...document.querySelectorAll('input, textarea')].map((field) => field.labels.length)"
    assert set(page.evaluate(labels)) == {1}


def test_the_status_is_read_out_and_the_tokens_are_not(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service))
    assert page.locator("#status").get_attribute("role") == "status"
    assert page.locator("#problem").get_attribute("role") == "alert"
    live = "() => document.getElementById('answer').closest('[aria-live], [role=status], [role=alert], [role=log]')"
    assert page.evaluate(live) is None


@pytest.mark.parametrize("path", ["/", "/prompt", "/docs", "/lesson"])
def test_where_scripts_are_off_a_page_says_that_it_needs_them(path: str) -> None:
    assert b'<noscript><p class="problem">This page needs JavaScript.' in page_file(path).body


@pytest.mark.parametrize("path", ["/prompt", "/docs", "/lesson", "/lesson?wsgi=1&starlette=2&raw_asgi=3"])
def test_no_page_is_wider_than_its_window(service: Service, open_page: OpenPage, path: str) -> None:
    page = open_page(address(service, path))
    if path == "/prompt":
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
        brightness[scheme] = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in page.evaluate(colours)]
    (light_paper, light_ink), (dark_paper, dark_ink) = brightness["light"], brightness["dark"]
    assert light_paper > 600 > 200 > light_ink
    assert dark_paper < 200 < 600 < dark_ink


def test_nothing_moves_if_the_browser_asks_for_reduced_motion(service: Service, open_page: OpenPage) -> None:
    animations = {}
    for wish in ("reduce", "no-preference"):
        page = open_page(address(service), reduced_motion=wish)
        ask(page, "hello")
        expect(page.locator("#answer .token")).to_have_count(4)
        animations[wish] = page.locator("#answer .token").first.evaluate(
            "(token) => getComputedStyle(token).animationName"
        )
    assert animations == {"reduce": "none", "no-preference": "arrive"}


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
        page = open_page(address(service, "/llm/prompt"))
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
        for words in harmless:
            text = text.replace(words, "")
        assert not re.search(r"https?://|[\"'(]//", text), path

"""What the chat keeps in the browser: it survives a reload at any moment, and need not be kept."""

from typing import Any

import pytest

from tests.support.page_helpers import OpenPage, address, expect, say, script
from tests.support.serving import Service

pytest_plugins = ["tests.support.browser"]

FULL = "() => (Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); })"
FORBIDDEN = """for (const name of ["localStorage", "sessionStorage"])
    Object.defineProperty(window, name, { get() { throw new DOMException("forbidden", "SecurityError"); } });"""


@pytest.fixture
def page(service: Service, open_page: OpenPage) -> Any:
    return open_page(address(service, "/"))


def expect_answer(page: Any) -> None:
    expect(page.locator(".turn.assistant .content").last).to_have_text("Hello, world!")
    expect(page.locator("#status")).to_contain_text("Done, because")


def expect_turns(page: Any, *texts: str) -> None:
    expect(page.locator(".turn .content")).to_have_text([*texts])


def test_what_had_come_of_an_answer_survives_a_reload(service: Service, page: Any) -> None:
    service.engine.hold()
    say(page, "count 300")
    service.engine.release(2)
    expect(page.locator("#tokens .token")).to_have_count(2)
    page.reload()
    expect_turns(page, "count 300", "0 1")


def test_an_answer_of_which_nothing_had_come_is_not_there_after_a_reload(service: Service, page: Any) -> None:
    service.engine.hold()
    say(page, "hello")
    expect(page.locator(".turn.assistant")).to_have_count(1)
    page.reload()
    expect_turns(page, "hello")


def test_a_tab_without_an_answer_leaves_what_another_has_kept(service: Service, page: Any) -> None:
    other = page.context.new_page()
    other.goto(address(service, "/"))
    say(other, "hello")
    expect_answer(other)
    page.goto("about:blank")
    other.reload()
    expect_turns(other, "hello", "Hello, world!")


def test_each_tab_keeps_its_own_conversation_and_a_new_one_goes_on_with_the_last(service: Service, page: Any) -> None:
    other = page.context.new_page()
    other.goto(address(service, "/"))
    say(page, "hello")
    expect_answer(page)
    say(other, "say more")
    expect(other.locator(".turn.assistant .content")).to_have_text("more")
    expect(other.locator("#status")).to_contain_text("Done, because")
    page.reload()
    expect_turns(page, "hello", "Hello, world!")
    other.reload()
    expect_turns(other, "say more", "more")
    third = page.context.new_page()
    third.goto(address(service, "/"))
    expect_turns(third, "say more", "more")


def test_two_tabs_may_change_one_setting_each(service: Service, page: Any) -> None:
    other = page.context.new_page()
    other.goto(address(service, "/"))
    for tab, name in ((page, "temperature"), (other, "top_p")):
        tab.click("summary")
        tab.fill(f"[name={name}]", "0.5")
    page.reload()
    for name in ("temperature", "top_p"):
        expect(page.locator(f"[name={name}]")).to_have_value("0.5")


def test_a_browser_without_room_says_that_the_conversation_is_not_kept(page: Any) -> None:
    expect(page.locator("#unkept")).to_be_hidden()
    page.evaluate(FULL)
    page.click("summary")
    page.fill("[name=temperature]", "0")
    say(page, "hello")
    expect_answer(page)
    expect(page.locator("#unkept")).to_contain_text("After a reload it is gone")


def test_a_browser_that_forbids_the_page_to_keep_anything_is_enough(page: Any) -> None:
    page.add_init_script(FORBIDDEN)
    page.reload()
    page.click("summary")
    page.fill("#api-key", "secret-1")
    with page.expect_request("**/v1/chat/completions") as request:
        say(page, "hello")
    assert request.value.headers["authorization"] == "Bearer secret-1"
    expect_answer(page)


@pytest.mark.parametrize("foreign", ["dark", "null", "[null]", '[{"role": "user"}]'])
def test_what_another_program_has_kept_under_the_same_names_is_no_conversation(page: Any, foreign: str) -> None:
    page.evaluate("text => { localStorage.conversation = localStorage.settings = text; }", foreign)
    page.reload()
    expect(page.locator("#empty")).to_be_visible()
    say(page, "hello")
    expect_answer(page)


def test_quotes_within_quotes_are_shown_as_text_where_they_are_too_deep(
    page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each level takes some of the browser's stack, and a model that repeats itself makes thousands."""
    script(monkeypatch, [">" * 20_000, " deep"])
    say(page, "hello")
    expect(page.locator(".turn.assistant .content")).to_contain_text("> deep")
    assert 1 < page.locator("blockquote").count() < 100

"""The chat at `/` in a real browser: a conversation of several turns, its settings, the actions on a turn."""

import json
from typing import Any

import pytest

from tests.support.page_helpers import PHONE, OpenPage, address, expect, overflow, say, script
from tests.support.serving import Door, Service, on_a_socket, wait_until

pytest_plugins = ["tests.support.browser"]


@pytest.fixture
def page(service: Service, open_page: OpenPage) -> Any:
    return open_page(address(service, "/"))


def contents(page: Any) -> list[str]:
    found: list[str] = page.locator(".turn .content").all_text_contents()
    return found


def sent_messages(request: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = json.loads(request.value.post_data or "")["messages"]
    return messages


def finished(page: Any) -> None:
    expect(page.locator("#status")).to_contain_text("Done, because")


def test_both_doors_serve_the_chat(browser: Any, open_page: OpenPage, door: Door) -> None:
    with on_a_socket(door) as service:
        page = open_page(address(service, "/"))
        say(page, "hello")
        expect(page.locator(".turn.assistant .content")).to_have_text("Hello, world!")
        expect(page.locator("#status")).to_have_text("Done, because the answer was complete: 4 tokens.")


def test_a_second_turn_sends_the_first_and_the_system_prompt(page: Any) -> None:
    page.click("summary")
    page.fill("#system", "Be brief.")
    say(page, "hello")
    finished(page)
    with page.expect_request("**/v1/chat/completions") as request:
        say(page, "say more")
    assert sent_messages(request) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hello, world!"},
        {"role": "user", "content": "say more"},
    ]
    expect(page.locator(".turn")).to_have_count(4)


def test_settings_reach_the_server_and_survive_a_reload(page: Any) -> None:
    page.click("summary")
    fields = {"temperature": "0", "top_p": "0.5", "min_p": "0.1", "repetition_penalty": "1.1", "seed": str(2**62)}
    for name, value in fields.items():
        page.fill(f"[name={name}]", value)
    page.reload()
    page.click("summary")
    with page.expect_request("**/v1/chat/completions") as request:
        say(page, "hello")
    body = json.loads(request.value.post_data or "")
    assert {name: body[name] for name in fields} == {name: json.loads(value) for name, value in fields.items()}


def test_a_conversation_survives_a_reload(page: Any) -> None:
    say(page, "hello")
    finished(page)
    page.reload()
    expect(page.locator(".turn")).to_have_count(2)
    assert contents(page) == ["hello", "Hello, world!"]


def test_stopping_ends_the_sequence_and_keeps_what_there_is(service: Service, page: Any) -> None:
    service.engine.hold()
    say(page, "count 300")
    service.engine.release(2)
    expect(page.locator("#tokens .token")).to_have_count(2)
    page.keyboard.press("Escape")
    wait_until(lambda: len(service.engine.aborted) == 1, "the abort")
    expect(page.locator("#status")).to_contain_text("Stopped after 2 tokens")
    assert contents(page)[1].strip() == "0 1"


def test_an_answer_is_made_again_on_demand(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    say(page, "hello")
    finished(page)
    script(monkeypatch, ["Another", " answer"])
    page.click("button:text('Regenerate')")
    expect(page.locator(".turn.assistant .content")).to_have_text("Another answer")
    expect(page.locator(".turn")).to_have_count(2)


def test_a_question_that_is_changed_is_asked_again_without_what_followed(page: Any) -> None:
    for text in ("hello", "say more"):
        say(page, text)
        finished(page)
        page.evaluate("() => (document.getElementById('status').textContent = '')")
    page.locator(".turn.user button:text('Edit')").first.click()
    page.fill(".turn textarea", "say other")
    page.keyboard.press("Enter")
    finished(page)
    assert contents(page) == ["say other", "other"]


def test_the_arrow_up_edits_the_last_question(page: Any) -> None:
    say(page, "hello")
    finished(page)
    page.fill("#prompt", "typed")
    page.press("#prompt", "ArrowUp")
    expect(page.locator(".turn.user textarea")).to_have_count(0)
    page.fill("#prompt", "")
    page.press("#prompt", "ArrowUp")
    expect(page.locator(".turn.user textarea")).to_have_value("hello")
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".turn.user textarea")).to_have_value("hello\n")
    page.keyboard.press("Escape")
    expect(page.locator(".turn.user textarea")).to_have_count(0)


def test_the_focus_returns_to_where_an_edit_began(page: Any) -> None:
    say(page, "hello")
    finished(page)
    edit = page.locator(".turn.user button:text('Edit')")
    for opener, key in ((edit, "Enter"), (page.locator("#prompt"), "ArrowUp")):
        opener.focus()
        page.keyboard.press(key)
        expect(page.locator(".turn.user textarea")).to_be_focused()
        page.keyboard.press("Escape")
        expect(opener).to_be_focused()


def test_no_turn_can_be_changed_while_an_answer_comes(service: Service, page: Any) -> None:
    service.engine.hold()
    say(page, "count 3")
    buttons = page.locator(".turn-buttons button")
    expect(buttons.and_(page.locator("[aria-disabled=true]"))).to_have_count(3)
    for button in buttons.all():
        button.click(force=True)  # it does nothing, so playwright would wait until it does something
    page.focus("#prompt")
    page.keyboard.press("ArrowUp")
    expect(page.locator(".turn textarea")).to_have_count(0)
    service.engine.release(3)
    finished(page)
    expect(buttons.and_(page.locator("[aria-disabled=false]"))).to_have_count(3)


def test_what_is_being_typed_into_a_turn_stays_when_another_is_asked(page: Any) -> None:
    say(page, "hello")
    finished(page)
    page.click(".turn.user button:text('Edit')")
    page.fill(".turn.user textarea", "something else")
    say(page, "say more")
    expect(page.locator(".turn.assistant")).to_have_count(2)
    finished(page)
    expect(page.locator(".turn.user textarea")).to_have_value("something else")


def test_an_answer_stays_if_none_can_be_made_in_its_place(page: Any) -> None:
    say(page, "hello")
    finished(page)
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.click("button:text('Regenerate')")
    expect(page.locator("#problem")).to_contain_text("cannot be reached")
    assert contents(page) == ["hello", "Hello, world!"]


def test_a_question_that_is_refused_is_back_in_its_field(page: Any) -> None:
    page.click("form summary")
    page.fill("[name=tools]", "{")
    say(page, "hello")
    expect(page.locator("#problem")).to_contain_text("The tools are not JSON")
    expect(page.locator("#prompt")).to_have_value("hello")
    page.fill("[name=tools]", "")
    answer = {"status": 429, "headers": {"retry-after": "7"}, "json": {"error": {"message": "Too many"}}}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(**answer))
    page.press("#prompt", "Enter")
    expect(page.locator("#problem")).to_have_text(
        "The server refused the request (429). Too many. Try again in 7 seconds."
    )
    expect(page.locator("#prompt")).to_have_value("hello")
    expect(page.locator(".turn")).to_have_count(0)


def test_a_screen_reader_is_told_an_answer_when_it_is_whole(service: Service, page: Any) -> None:
    service.engine.hold()
    say(page, "count 2")
    conversation = page.locator("#conversation[aria-live]")
    expect(conversation).to_have_attribute("aria-busy", "true")
    service.engine.release(2)
    finished(page)
    expect(conversation).to_have_attribute("aria-busy", "false")


MARKDOWN = (
    "# Title\n\nSome **bold** and `code`.\n\n- one\n- two\n\n```js\nlet x = '<b>';\n```\n\n[here](https://a.example/x)"
    "\n\nA table:\n| a | b |\n|---|:-:|\n| 1 | x \\| y |\n| ~~2~~ | ***3*** |"
)


def test_markdown_is_shown(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [MARKDOWN[start : start + 5] for start in range(0, len(MARKDOWN), 5)])
    say(page, "anything")
    finished(page)
    content = page.locator(".turn.assistant .content")
    expect(content.locator("p strong")).to_have_text("bold")
    expect(content.locator("li")).to_have_text(["one", "two"])
    expect(content.locator("pre code")).to_have_text("let x = '<b>';")
    expect(content.locator("thead th")).to_have_text(["a", "b"])
    expect(content.locator("tbody td")).to_have_text(["1", "x | y", "2", "3"])
    expect(content.locator("del, strong > em")).to_have_text(["2", "3"])
    expect(content.locator("a")).to_have_attribute("href", "https://a.example/x")


INLINE_SCRIPT = """() => {
    const script = document.createElement("script");
    script.textContent = "document.body.dataset.ran = 'yes'";
    document.body.append(script);
    return document.body.dataset.ran ?? "no";
}"""


def test_a_browser_runs_no_script_that_is_not_the_servers(page: Any) -> None:
    """Should what a model says become a part of the page once."""
    assert page.evaluate(INLINE_SCRIPT) == "no"


HOSTILE = [
    "<img src=x onerror='document.title=1'><script>document.title=1</script>",
    "[x](javascript:document.title=1) [y](data:text/html,x) ![z](https://a.example/z.png)",
    "`" * 5000 + "*" * 5000 + "[" * 5000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_a_model_says_becomes_markup(page: Any, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    script(monkeypatch, [text])
    say(page, "anything")
    finished(page)
    content = page.locator(".turn.assistant .content")
    assert content.locator("img, script, iframe, [onerror]").count() == 0
    assert all(
        link.startswith("https://") for link in content.locator("a").evaluate_all("(all) => all.map((a) => a.href)")
    )
    assert page.title() == "Token by token"


def test_reasoning_is_folded_and_goes_back_with_the_next_turn(page: Any) -> None:
    say(page, "think 4")
    finished(page)
    assert contents(page)[1] == "4"
    folded = page.locator(".assistant .folded.reasoning")
    expect(folded).not_to_have_attribute("open", "")
    folded.locator("summary").click()
    expect(folded.locator("p")).to_have_text("Let me see")
    with page.expect_request("**/v1/chat/completions") as request:
        say(page, "hello")
    assert sent_messages(request)[1]["reasoning_content"] == "Let me see "


def test_a_tool_call_is_folded(page: Any) -> None:
    page.click("summary")
    page.fill("[name=tools]", '[{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]')
    say(page, 'call add {"a": 1}')
    expect(page.locator("#status")).to_contain_text("it calls a tool")
    call = page.locator(".assistant .folded.call")
    expect(call.locator("summary")).to_have_text("Tool call: add")
    call.locator("summary").click()
    expect(call.locator("pre")).to_contain_text('"a": 1')


def test_a_clicked_token_shows_its_alternatives(page: Any) -> None:
    say(page, "hello")
    finished(page)
    page.locator("#tokens .token").nth(1).click()
    expect(page.locator("#tokens .token.chosen")).to_have_count(1)
    expect(page.locator("#alternatives li[aria-current]")).to_have_count(1)
    expect(page.locator("#alternatives li").first).to_contain_text("%")


def test_the_keyboard_chooses_tokens_too_and_passes_them_in_one_step(page: Any) -> None:
    say(page, "hello")
    finished(page)
    page.locator("#tokens").focus()
    for key, chosen in ("ArrowRight", 0), ("ArrowRight", 1), ("ArrowLeft", 0), ("ArrowLeft", 0):
        page.keyboard.press(key)
        expect(page.locator("#tokens .token").nth(chosen)).to_be_focused()
        expect(page.locator("#tokens .token").nth(chosen)).to_have_class("token chosen")
        expect(page.locator("#tokens .token.chosen")).to_have_count(1)
        expect(page.locator("#alternatives li[aria-current]")).to_have_count(1)
    page.keyboard.press("Tab")
    expect(page.locator("#tokens :focus")).to_have_count(0)


def test_a_failure_in_a_stream_is_shown_and_the_text_before_it_stays(page: Any) -> None:
    say(page, "explode")
    expect(page.locator("#problem")).to_contain_text("the script says so")
    assert contents(page) == ["explode", "Hello"]


def test_a_refusal_is_shown_as_a_sentence(page: Any) -> None:
    page.click("summary")
    page.fill("[name=temperature]", "hot")
    say(page, "hello")
    expect(page.locator("#problem")).to_contain_text("temperature")


def test_a_conversation_can_be_saved_and_begun_again(page: Any) -> None:
    page.click("summary")
    page.fill("#system", "Be brief.")
    say(page, "hello")
    finished(page)
    with page.expect_download() as download:
        page.click("#save-button")
    saved = json.loads(download.value.path().read_text())
    assert [message["role"] for message in saved["messages"]] == ["system", "user", "assistant"]
    page.click("#new-button")
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()


def test_the_key_is_sent_and_kept_for_this_tab_only(page: Any) -> None:
    page.click("summary")
    page.fill("#api-key", "secret-1")
    with page.expect_request("**/v1/chat/completions") as request:
        say(page, "hello")
    assert request.value.headers["authorization"] == "Bearer secret-1"
    assert page.evaluate("() => JSON.stringify(localStorage)").find("secret-1") == -1


def test_a_phone_and_the_dark_are_no_reason_to_scroll_sideways(service: Service, open_page: OpenPage) -> None:
    page = open_page(address(service, "/"), viewport=PHONE, color_scheme="dark")
    say(page, "newlines")
    finished(page)
    page.click("form summary")
    assert overflow(page) <= 0

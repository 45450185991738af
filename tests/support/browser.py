"""A real browser for the tests of the pages: Chromium, driven by playwright. A test module asks for it with

    pytest_plugins = ["tests.support.browser"]

Without a browser its tests are left out, and the end of the run says so; with CI or REQUIRE_BROWSER set they fail.
CHROMIUM names another binary than Debian's.
"""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

    from tests.support.page_helpers import OpenPage

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 30_000

_left_out: set[str] = set()


def chromium() -> str | None:
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


def missing() -> str | None:
    """What is missing for a browser, and how to get it; None if nothing is."""
    if importlib.util.find_spec("playwright") is None:
        return "no playwright; pip install -r requirements/dev.txt"
    if chromium() is None:
        return "no chromium; apt-get install chromium"
    return None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for why in sorted(_left_out):
        terminalreporter.write_line(f"browser tests left out: {why}", yellow=True, bold=True)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """One browser for a module's tests. No longer than that: playwright keeps an event loop running meanwhile, and the
    other tests want to run their own."""
    why = missing()
    if why is not None:
        if is_set("CI") or is_set("REQUIRE_BROWSER"):
            pytest.fail(f"the browser tests must run here, but there is {why}")
        _left_out.add(why)
        pytest.skip(f"browser tests left out: {why}")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: "Browser") -> Iterator["OpenPage"]:
    """Open an address. Whatever a test does, no script may fail and no request may go to another host."""
    contexts = []
    failures: list[str] = []
    hosts: set[str | None] = set()
    allowed: set[str | None] = {None}

    def note(request: "Request") -> None:
        hosts.add(urlsplit(request.url).hostname)

    def open(url: str, **settings: Any) -> "Page":
        allowed.add(urlsplit(url).hostname)
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("request", note)
        page.goto(url)
        return page

    yield open
    for context in contexts:
        context.close()
    assert not failures
    assert hosts <= allowed


def is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() not in ("", "0", "false")

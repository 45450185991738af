"""What the tests of the pages share, apart from the browser itself (browser.py)."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.serving import Service

OpenPage = Callable[..., Any]
"""Opens an address in a browser and returns playwright's Page; a fixture of browser.py."""
PHONE = {"width": 390, "height": 844}


def address(service: Service, path: str = "/prompt") -> str:
    return f"http://127.0.0.1:{service.port}{path}"


def expect(locator: Any) -> Any:
    """playwright's `expect`: an assertion that waits until it holds."""
    from playwright.sync_api import expect

    return expect(locator)


def overflow(page: Any) -> int:
    """By how many pixels the page is wider than its window."""
    wider: int = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wider


def ask(page: Any, prompt: str) -> None:
    page.fill("#prompt", prompt)
    page.click("#ask-button")


def say(page: Any, text: str) -> None:
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def script(monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    """Let the scripted engine answer every prompt with these tokens."""
    monkeypatch.setattr("study.common.engine.script", lambda prompt, max_tokens: texts)

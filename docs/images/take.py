"""Takes the pictures of the pages that the README shows: of the real servers, with the bundled model.

python -m docs.images.take
"""

import json
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from study.common.arguments import argument_parser
from study.common.launcher import Process
from tests.support.browser import FLAGS, chromium
from tests.support.serving import in_a_process

FOLDER = Path(__file__).parent
PATIENCE_MS = 170_000


def main() -> None:
    argument_parser(__doc__).parse_args()
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        with in_a_process(["-m", "uvicorn", "raw_asgi:app", "--port", "0"], {"ENGINE_TRANSCRIPT": "1"}) as process:
            wait_until_ready(process.port)
            take_chat(browser, f"http://127.0.0.1:{process.port}/")
        with in_a_process(["-m", "study.three_servers", "--port", "0"]) as process:
            take_lesson(browser, wait_for_address(process))
            process.popen.send_signal(signal.SIGTERM)
            process.wait()


def take_chat(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        say(page, "What is 17 + 25?")
        say(page, "Tell me a story about a fox.")
        page.locator("#tokens .token").nth(3).click()
        expect(page.locator("#alternatives li").first).to_be_visible()
        page.screenshot(path=FOLDER / "chat.png")


def say(page: Page, text: str) -> None:
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")
    expect(page.locator("#status")).to_contain_text("Done")
    expect(page.locator("#timeline")).to_have_attribute("aria-busy", "false")
    settle(page)


def take_lesson(browser: Browser, url: str) -> None:
    with opened(browser, url) as page:
        page.click("#ask-all")
        expect(page.locator("#status")).to_contain_text(re.compile("froze", re.IGNORECASE))
        settle(page)
        page.screenshot(path=FOLDER / "lesson.png", full_page=True)


@contextmanager
def opened(browser: Browser, url: str) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.goto(url)
    yield page
    page.close()


def settle(page: Page) -> None:
    """Let what moves come to rest, and the pointer leave what it has pressed."""
    page.mouse.move(1, 1)
    page.evaluate("() => Promise.all(document.getAnimations().map((animation) => animation.finished))")


def wait_for_address(process: Process) -> str:
    """The lesson's address, which the launcher prints when all three models have loaded."""
    while not (found := re.search(r"http://\S+/lesson\S*", process.log)):
        assert process.popen.poll() is None, process.log
        time.sleep(0.1)
    return found[0]


def wait_until_ready(port: int) -> None:
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as response:
                json.load(response)
                return
        except urllib.error.HTTPError:
            time.sleep(0.1)


if __name__ == "__main__":
    main()

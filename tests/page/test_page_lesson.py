"""The page at `/lesson` and the three servers behind it, as `make lesson` starts them, with scripted engines."""

import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from study.common.launcher import Process
from tests.support.page_helpers import PHONE, OpenPage, expect, overflow
from tests.support.serving import in_a_process, wait_until

pytest_plugins = ["tests.support.browser"]

COLUMNS = ("WSGI", "Starlette", "Raw ASGI")
LAUNCH = ["-m", "study.three_servers", "--port", "0", "--load", "study.common.engine:load_paced"]


def lesson_address(process: Process) -> str:
    """The address that the launcher prints once all three are healthy."""
    return process.find(r"(http://127\.0\.0\.1:\d+/lesson\S*)")


def ports(address: str, door: str) -> list[int]:
    found = re.search(rf"\b{door}=([\d,]+)", address)
    assert found
    return [int(port) for port in found[1].split(",")]


@pytest.fixture(scope="module")
def lesson(browser: Any) -> Iterator[str]:
    """Three servers whose engines take 20 ms for each token. The launcher is ended and not killed, and so ends them."""
    with in_a_process(LAUNCH, {"PACE": "0.02"}) as process:
        yield lesson_address(process)
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM


def prepare(open_page: OpenPage, lesson: str, tokens: int, **settings: Any) -> Any:
    page = open_page(lesson, **settings)
    page.fill("#prompt", f"count {tokens}")
    page.fill("#max_tokens", str(tokens))
    return page


def column(page: Any, name: str) -> Any:
    return page.locator(f".column[aria-label='{name}']")


def checks_answered(page: Any, name: str) -> int:
    paths = column(page, name).locator(".answered, .slow").all()
    return sum((path.get_attribute("d") or "").count("M") for path in paths)


def test_one_button_starts_all_three_and_shows_which_froze(open_page: OpenPage, lesson: str) -> None:
    page = prepare(open_page, lesson, 150)
    page.click("#ask-all")
    for name in COLUMNS:
        expect(column(page, name).locator(".token")).to_have_count(150)
    expect(page.locator("#status")).to_contain_text("Froze: WSGI (")
    expect(column(page, "WSGI").locator(".verdict")).to_contain_text("Froze: a health check waited")
    for name in COLUMNS[1:]:
        # One sync worker answers nothing between the stream's beginning and its end; the others do, all the time.
        assert checks_answered(page, name) > checks_answered(page, "WSGI")


def test_tokens_arrive_one_by_one_in_every_column(open_page: OpenPage, lesson: str) -> None:
    page = prepare(open_page, lesson, 100)
    page.click("#ask-all")
    for name in COLUMNS:
        expect(column(page, name).locator(".token").nth(1)).to_be_visible()
        assert column(page, name).locator(".token").count() < 100
    expect(page.locator("#status")).to_contain_text(re.compile("froze", re.IGNORECASE))


def test_leaving_after_five_tokens_shows_what_each_engine_still_made(open_page: OpenPage, lesson: str) -> None:
    page = prepare(open_page, lesson, 1000)
    page.click("#leave-early")
    for name in COLUMNS:
        verdict = column(page, name).locator(".verdict")
        expect(verdict).to_contain_text(
            re.compile(r"Left after 5 tokens; the engine made \d+, (none|\d+) of them for no reader\.")
        )
        read, made = map(int, re.findall(r"after (\d+) tokens; the engine made (\d+)", verdict.text_content())[0])
        assert read == 5 <= made < 500


def test_eight_at_once_run_side_by_side_or_one_after_the_other(open_page: OpenPage, lesson: str) -> None:
    page = prepare(open_page, lesson, 20)
    page.click("#send-eight")
    expect(page.locator("#status")).to_contain_text(re.compile("froze", re.IGNORECASE))
    for name in COLUMNS:
        assert column(page, name).locator(".tokens").count() == 8
        assert column(page, name).locator(".token").count() == 160
        expect(column(page, name).locator(".verdict")).to_contain_text("The last of 8 first tokens came after")
        strokes = re.findall(r"M([\d.]+) ([\d.]+)L", column(page, name).locator(".arrival").get_attribute("d"))
        by_lane: dict[str, list[float]] = {}
        for at, lane in strokes:
            by_lane.setdefault(lane, []).append(float(at))
        last_beginning = max(times[0] for times in by_lane.values())
        first_end = min(times[-1] for times in by_lane.values())
        assert (last_beginning < first_end) == (name != "WSGI"), name


def test_stop_leaves_all_three(open_page: OpenPage, lesson: str) -> None:
    page = prepare(open_page, lesson, 1000)
    page.click("#ask-all")
    for name in COLUMNS:
        expect(column(page, name).locator(".token").nth(1)).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_contain_text(re.compile("froze", re.IGNORECASE))
    for name in COLUMNS:
        assert column(page, name).locator(".token").count() < 1000


def test_a_refused_request_is_explained_in_its_column(open_page: OpenPage, lesson: str) -> None:
    page = prepare(open_page, lesson, 0)
    page.click("#ask-all")
    for name in COLUMNS:
        verdict = column(page, name).locator(".verdict")
        expect(verdict).to_contain_text("(422): max_tokens: Input should be greater than or equal to 1.")


def test_a_phone_shows_the_columns_below_each_other(open_page: OpenPage, lesson: str) -> None:
    page = prepare(open_page, lesson, 5, viewport=PHONE, color_scheme="dark")
    page.click("#ask-all")
    expect(page.locator("#status")).to_contain_text(re.compile("froze", re.IGNORECASE))
    assert overflow(page) <= 0
    assert len({box["x"] for box in (column(page, name).bounding_box() for name in COLUMNS)}) == 1


# --- The launcher -----------------------------------------------------------------------------------------------------


def answer_headers(port: int, origin: str, method: str = "GET") -> dict[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/health", method=method, headers={"Origin": origin})
    if method == "OPTIONS":
        request.add_header("Access-Control-Request-Method", "POST")
        request.add_header("Access-Control-Request-Headers", "content-type, x-request-id")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return {name.lower(): value for name, value in response.headers.items()}
    except urllib.error.HTTPError as error:
        with error:
            return {name.lower(): value for name, value in error.headers.items()}


@pytest.mark.parametrize("wsgi_server", ["gunicorn", "wsgiref"])
def test_only_the_lesson_page_may_read_the_answers_and_one_signal_ends_all_three(wsgi_server: str) -> None:
    with in_a_process([*LAUNCH, "--wsgi-server", wsgi_server], {"PACE": "0.001"}) as process:
        address = lesson_address(process)
        assert address.endswith(f"wsgi_server={wsgi_server}")
        origin = address.partition("/lesson")[0]
        every_port = [port for door in ("wsgi", "starlette", "raw_asgi") for port in ports(address, door)]
        assert len(set(every_port)) == 6
        for port in every_port:
            assert answer_headers(port, origin)["access-control-allow-origin"] == origin
            assert "access-control-allow-origin" not in answer_headers(port, "http://127.0.0.1:1")
            preflight = answer_headers(port, origin, "OPTIONS")
            assert preflight["access-control-allow-origin"] == origin
            assert {"content-type", "x-request-id"} <= set(
                preflight["access-control-allow-headers"].lower().split(", ")
            )
        process.interrupt()
        assert process.wait() == -signal.SIGINT
        assert "Traceback" not in process.log
        assert all(map(is_free, every_port))


@pytest.mark.parametrize("wsgi_server", ["gunicorn", "wsgiref"])
def test_no_server_outlives_a_launcher_that_is_killed(wsgi_server: str) -> None:
    with in_a_process([*LAUNCH, "--wsgi-server", wsgi_server]) as process:
        address = lesson_address(process)
        process.popen.kill()
        for port in (port for door in ("wsgi", "starlette", "raw_asgi") for port in ports(address, door)):
            wait_until(partial(is_free, port), f"the end of the server on port {port}")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with in_a_process(["-m", "study.three_servers", "--port", str(port)]) as process:
            assert process.wait() == 1
            assert f"error: port {port} cannot be used" in process.log


def test_a_server_that_cannot_start_ends_the_others() -> None:
    with in_a_process(
        ["-m", "study.three_servers", "--port", "0", "--load", "study.common.engine:no_such_function"]
    ) as process:
        assert process.wait() == 1
        assert "error: the wsgi server" in process.log

"""The lessons are true: each runs by itself, prints what it claims, and docs/lesson.md says the same.

Every lesson runs once, as a program of its own, some of them at a time; the tests look at what it printed. The lines
below are the claims. All that a lesson prints is also kept in lessons/printed/, which docs/lesson.md shows; of that,
only a line that begins with "here:" may differ from one machine to another.
"""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
AT_A_TIME = 4
"""Most of a lesson's time is waiting for what does not come, so two cores can run a few of them at the same time."""
RUNTIME_PACKAGES = {"anyio", "starlette", "uvicorn"}
MAX_LINES = 100

CLAIMS = {
    "01_pulled_and_pushed": [
        "WSGI, one worker: 5 of 5 tokens arrived before the next was made",
        "headers before the first token was made: no; /health in the middle: not before the stream has ended",
        "WSGI, a thread per stream: 5 of 5 tokens arrived before the next was made",
        "headers before the first token was made: no; /health in the middle: answered",
        "ASGI, one thread for all: 5 of 5 tokens arrived before the next was made",
        "headers before the first token was made: yes; /health in the middle: answered",
    ],
    "02_start_body_more_body": [
        "body before start: HTTP/1.1 500 Internal Server Error; no token; with its end",
        "more_body forgotten: HTTP/1.1 200 OK; one; with its end",
        "end forgotten: HTTP/1.1 200 OK; one two three; cut off",
        "the headers came before the first token was made: True",
        "start, body, body, body, end: HTTP/1.1 200 OK; one two three; with its end",
    ],
    "03_an_error_after_the_start": [
        'raises: 200; {"token": "one"}; cut off',
        'tries to answer 500: 200; {"token": "one"}; cut off',
        'swallows the error: 200; {"token": "one"}; with its end',
        'says it in the stream: 200; {"token": "one"} {"error": "the model failed"}; with its end',
    ],
    "04_next_in_an_executor": [
        "run_in_executor(None, next, tokens): 3 tokens, then no StopIteration",
        "to_thread.run_sync(next, tokens): 3 tokens, then no StopIteration",
        "to_thread.run_sync(next, tokens, END): 3 tokens, then the end",
    ],
    "05_forty_one_streams": [
        "anyio's own 40 threads: 40 of 41 streams have a thread; /health meanwhile: no answer",
        "a limiter of their own: 41 of 41 streams have a thread; /health meanwhile: answered",
        "one thread that steps for all: 1 thread; /health meanwhile: answered",
        "streams that have got their first token: 41",
    ],
    "06_a_hop_per_step": [
        "a hop per token: 800 tokens, hops to a thread: 800",
        "a hop per step: 800 tokens, hops to a thread: 50",
        "a thread that stays: 800 tokens, hops to a thread: 1",
        "the thread that stays is faster than a hop per token: True",  # by two orders of magnitude
    ],
    "07_leaving": [
        "only sends, ASGI 2.3: the client left after 3 tokens, tokens made: 20",
        "only sends, ASGI 2.4: the client left after 3 tokens, tokens made: 4",
        "only sends, ASGI 2.4: the client left in the prefill, tokens made: 1",
        "also listens, ASGI 2.3: the client left after 3 tokens, tokens made: 3",
        "also listens, ASGI 2.3: the client left in the prefill, tokens made: 0",
    ],
    "08_finally_too_late": [
        "finally in the generator, client leaves at a token: when the response has ended: not aborted; "
        "after the garbage: aborted",
        "finally in the generator, client leaves at the headers: when the response has ended: not aborted; "
        "after the garbage: not aborted",
        "finally around it, client leaves at a token: when the response has ended: aborted",
        "finally around it, client leaves at the headers: when the response has ended: aborted",
    ],
    "09_a_newline_in_a_token": [
        "as it is: 7 tokens sent, 8 received, not the same",
        "as JSON, read by str.splitlines(): 7 tokens sent, 7 received, not the same",
        "as JSON: 7 tokens sent, 7 received, the same",
        "as JSON in ASCII, read by str.splitlines(): 7 tokens sent, 7 received, the same",
    ],
    "10_half_an_emoji": [
        "joined: 'hi\ufffd\ufffd\ufffd \ufffd\ufffd好!', not the text",
        "joined: 'hi\ufffd \ufffd好!', not the text",
        "joined: 'hi😀 你好!', the text",
        "held back, stopped after 2 tokens: ['hi', ''], then '\ufffd'",
    ],
    "11_who_holds_it_back": [
        "a middleware that collects: the first token arrives only with the last",
        "one that passes each message on: the first token arrives as it is made",
        "Starlette's GZipMiddleware: the first token arrives as it is made",
        "a compressor: 0 of 100 tokens can be read before the end",
        "one that flushes each: 100 of 100",
        "a proxy that buffers: the first token arrives only with the last",
        "the same, asked not to: the first token arrives as it is made",
    ],
    "12_a_slow_reader": [
        "1000 events to a client that reads nothing: all sent",
        "events without end: send() waits",
        "after more than 10000 of them: True",
        "the same, with a bound on the wait: given up",
    ],
    "13_an_await_that_does_not_wait": [
        "only sends: /health is answered after all 1000 events",
        "steps aside after every 32 events: /health is answered in the middle of the stream",
    ],
    "14_shutting_down": [
        "waits for lifespan.shutdown: SIGTERM; 3 s later it waits still, and the lesson ends the stream; "
        "the stream says so and ends; lifespan.shutdown",
        "the same, and the server has a limit: SIGTERM; the stream is cut off; lifespan.shutdown",
        "hears the signal itself: SIGTERM; the stream says so and ends; lifespan.shutdown",
    ],
    "15_eventsource_asks_again": [
        "left alone: connections: 4; times the answer was generated: 4",
        "closed at the event `done`: connections: 1; times the answer was generated: 1",
        "answered with 204: connections: 2; times the answer was generated: 1",
    ],
    "16_one_event_in_four_dialects": [
        "POST /generate: events for the first token: 1; for the next one",
        'data: {"token":" there","token_id":311,"step_ms":2.5}',
        "and at the end 2, the last of them [DONE]",
        "POST /v1/chat/completions: events for the first token: 2; for the next one",
        "and at the end 2, the last of them [DONE]",
        "POST /v1/responses: events for the first token: 5; for the next one",
        "event: response.output_text.delta",
        "POST /v1/messages: events for the first token: 3; for the next one",
        "event: content_block_delta",
        "and at the end 3, the last of them named",
    ],
    "17_the_usage_chunk_comes_last": [
        "not asked for: 4 chunks, each with a choice",
        "asked for: 5 chunks; the last has 0 choices",
        "last:  text 'Hello', total tokens 5",
        "first: text 'Hello', total tokens None",
    ],
    "18_a_cut_stream_must_say_so": [
        "the stream just ends: the client stores 'The answer is' as the answer",
        "the stream says so: the client raises 'out of memory' after 'The answer is'",
    ],
    "19_where_the_engine_lives": [
        "in the loop: during a step /health is not answered; at its death the stream is cut off, the server is gone",
        "on a thread: during a step /health is answered; at its death the stream is cut off, the server is gone",
        "in a process: during a step /health is answered; at its death the stream is told, the server answers",
    ],
    "20_a_seed_is_a_seed": [
        "an order for each number of rows: the same seed, and another text from token 28 on",
        "one order: the same seed, and the same 200 tokens",
    ],
}

Runs = dict[str, "Future[subprocess.CompletedProcess[str]]"]


def load_make_lesson() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_lesson", ROOT / "docs" / "make_lesson.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_lesson = load_make_lesson()
LESSONS: list[str] = make_lesson.lessons()


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    """Every lesson, running or run."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {lesson: pool.submit(make_lesson.run, lesson) for lesson in LESSONS}


def stable(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if not line.lstrip().startswith("here:")]


def test_every_lesson_has_its_claims_here() -> None:
    assert list(CLAIMS) == LESSONS


@pytest.mark.timeout(120)  # the last one waits for all those before it
@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_prints_its_claims_in_order_and_no_complaints(runs: Runs, lesson: str) -> None:
    done = runs[lesson].result()
    assert (done.returncode, done.stderr) == (0, "")
    printed = [line.strip() for line in done.stdout.splitlines()]
    assert [line for line in printed if line in CLAIMS[lesson]] == CLAIMS[lesson]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("lesson", LESSONS)
def test_the_text_shows_what_a_lesson_really_prints(runs: Runs, lesson: str) -> None:
    kept = (ROOT / "lessons" / "printed" / f"{lesson}.txt").read_text(encoding="utf-8")
    assert stable(kept) == stable(runs[lesson].result().stdout)


def test_a_stop_iteration_in_an_executor_hangs_on_python_3_11(runs: Runs) -> None:
    """CPython has mended it since (gh-112182)."""
    here = runs["04_next_in_an_executor"].result().stdout.splitlines()[1]
    expected = "here: it waits for ever" if sys.version_info < (3, 12) else "here: (it waits for ever|RuntimeError)"
    assert re.match(expected, here.strip())


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_is_short_and_needs_only_what_serving_needs(lesson: str) -> None:
    source = (ROOT / "lessons" / f"{lesson}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_LINES
    imported: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported <= RUNTIME_PACKAGES | {"_start", "_show", "contract", "interface"} | sys.stdlib_module_names


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_first_imports_what_keeps_ctrl_c_quiet(lesson: str) -> None:
    _, first, *_ = ast.parse((ROOT / "lessons" / f"{lesson}.py").read_text(encoding="utf-8")).body
    assert ast.unparse(first) == "import _start"


# --- docs/lesson.md ---------------------------------------------------------------------------------------------------


def test_the_text_is_what_its_program_makes_of_it() -> None:
    assert make_lesson.TEXT.read_text(encoding="utf-8") == make_lesson.make(), "run `python docs/make_lesson.py`"


def test_the_text_has_every_lesson_in_order_and_is_short_enough_to_read() -> None:
    text = make_lesson.make()
    assert re.findall(r"^\[`lessons/(\w+)\.py`\]", text, re.MULTILINE) == LESSONS
    assert re.findall(r"^## (\d+)\. ", text, re.MULTILINE) == [str(int(lesson[:2])) for lesson in LESSONS]
    assert len(text.splitlines()) < 20 + 32 * len(LESSONS)


def test_every_file_that_the_text_links_to_is_there() -> None:
    linked = re.findall(r'(?:\]\(|href=")\.\./([^)"]+)', make_lesson.make())
    assert len(linked) > 3 * len(LESSONS)
    for path in linked:
        assert (ROOT / path).is_file(), path


@pytest.fixture
def small_house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one lesson and two doors, for the program that makes the text."""
    monkeypatch.setattr(make_lesson, "ROOT", tmp_path)
    monkeypatch.setattr(make_lesson, "LESSONS", tmp_path / "lessons")
    monkeypatch.setattr(make_lesson, "PRINTED", tmp_path / "lessons" / "printed")
    (tmp_path / "lessons" / "printed").mkdir(parents=True)
    (tmp_path / "lessons" / "printed" / "01_doors.txt").write_text("they open\n")
    (tmp_path / "lessons" / "introduction.md").write_text("# Doors\n\nSide by side: answer.\n")
    (tmp_path / "lessons" / "01_doors.py").write_text(
        '"""Doors open.\n\nThey do.\n\nIn the service: app.py:\nDoor.open; app.py: SIZE.\nSide by side: answer.\n"""\n'
    )
    door = "def answer() -> int:\n    return 1\n\n\nclass Door:\n    @property\n    def open(self) -> bool: ...\n\n\n"
    for name in ("app.py", "raw_asgi.py"):
        (tmp_path / name).write_text(f"{door}SIZE = 1\n")
    return tmp_path


def test_a_section_is_the_docstring_what_is_printed_the_doors_and_links(small_house: Path) -> None:
    text = make_lesson.make()
    assert "## 1. Doors open\n\nThey do.\n\n[`lessons/01_doors.py`](../lessons/01_doors.py) prints\n\n" in text
    assert "```text\nthey open\n```\n\n<table>" in text
    assert text.endswith("In the service: [`Door.open` in app.py](../app.py), [`SIZE` in app.py](../app.py).\n")
    assert text.count("```python\ndef answer() -> int:\n    return 1\n```") == 4


def test_a_door_that_has_changed_changes_the_text(small_house: Path) -> None:
    before = make_lesson.make()
    door = small_house / "raw_asgi.py"
    door.write_text(door.read_text().replace("return 1", "return 2"))
    assert make_lesson.make() != before


def test_a_name_that_is_gone_is_an_error_that_says_which(small_house: Path) -> None:
    door = small_house / "app.py"
    door.write_text(door.read_text().replace("def open", "def shut"))
    with pytest.raises(ValueError, match=r"app\.py defines no Door\.open"):
        make_lesson.make()


def test_a_docstring_without_its_parts_is_an_error_that_says_what_was_expected(small_house: Path) -> None:
    (small_house / "lessons" / "01_doors.py").write_text('"""Doors open."""\n')
    with pytest.raises(ValueError, match=r"01_doors\.py: expected a heading, paragraphs and"):
        make_lesson.make()

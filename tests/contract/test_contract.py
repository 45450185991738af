"""Requests and answers of `POST /generate`, without a server."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import contract
from contract import generate
from contract.generate import MAX_PROBLEMS, GenerateBody
from contract.parsing import MAX_CONTAINERS, MAX_STRINGS, check_counts
from contract.refusals import STATUSES
from contract.requests import MAX_ECHO
from contract.sse import frame
from interface.completion import stream_event
from interface.engine import Counters
from interface.errors import EngineFailed, EngineUnavailable, PromptTooLong, QueueFull, UnusablePrompt
from interface.events import Event, Failed, Finished, Token
from interface.vitals import Vitals
from tests.support.asgi_client import event_of, strict_json
from tests.support.wrong_bodies import WRONG_BODIES, WrongBody

FINISHED = Finished("stop", 3, 2, prefill_ms=1.23456, decode_ms=2.0, total_ms=4.0)


def content(answer: contract.Answer) -> Any:
    return strict_json(answer.body)


def refused(body: bytes) -> list[dict[str, Any]]:
    """The problems that a body is refused for."""
    with pytest.raises(contract.Refusal) as caught:
        generate.parse(contract.Incoming(body))
    answer = contract.dialect("/generate").refusal(caught.value)
    assert answer.status == 422
    assert answer.media_type == "application/json"
    problems: list[dict[str, Any]] = content(answer)["detail"]
    return problems


def answered(events: Sequence[Event]) -> contract.Answer:
    """The whole answer that a generation's events make."""
    call = generate.parse(contract.Incoming(b'{"prompt": "x"}'))
    return call.answer(contract.Accepted("an-id", [1]), events)


# --- Requests ---------------------------------------------------------------------------------------------------------


def test_a_prompt_is_enough() -> None:
    body = GenerateBody.model_validate_json(b'{"prompt": "x"}')
    assert body.model_dump(exclude_unset=True) == {"prompt": "x"}
    assert not body.stream


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", " "),
        ("prompt", "\x00\n你好 😀"),
        ("max_tokens", 1),
        ("temperature", 0),
        ("temperature", 2),
        ("top_p", 1),
        ("top_p", 1e-300),
        ("top_k", 1),
        ("seed", None),
        ("seed", 0),
        ("seed", 2**63 - 1),
        ("seed", -(2**63)),
        ("stop", None),
        ("stop", []),
        ("stop", ["a", "b", "c", "d"]),
        ("ignore_eos", True),
        ("stream", True),
    ],
)
def test_the_ends_of_each_range_are_within_it(field: str, value: Any) -> None:
    body = GenerateBody.model_validate_json(json.dumps({"prompt": "x", field: value}).encode())
    assert getattr(body, field) == value


def test_one_stop_string_is_a_list_of_one() -> None:
    assert GenerateBody.model_validate_json(b'{"prompt": "x", "stop": "END"}').stop == ["END"]


@pytest.mark.parametrize("wrong", WRONG_BODIES)
def test_every_problem_of_a_body_is_listed(wrong: WrongBody) -> None:
    problems = refused(wrong.body)
    assert [(problem["type"], tuple(problem["loc"][1:])) for problem in problems] == list(wrong.problems)
    for problem in problems:
        assert list(problem) == ["type", "loc", "msg", "input"]
        assert problem["loc"][0] == "body"
        assert problem["msg"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"prompt": ' + b"1" * 4000 + b"}", id="a long number"),
        pytest.param(b'{"prompt": ["' + b"x" * 10_000 + b'"]}', id="a long string in a list"),
        pytest.param(b'{"prompt": "x", "stop": [' + b'"x",' * 10_000 + b'"x"]}', id="a long list"),
        pytest.param(b'{"max_tokens": 1, "x": "' + b"x" * 1_000_000 + b'"}', id="a whole body of a megabyte"),
        pytest.param(b"x" * 1_000_000, id="a megabyte that is not JSON"),
        pytest.param(b'{"prompt": "x", "' + b"k" * 1_000_000 + b'": 1}', id="a name of a megabyte"),
        pytest.param(b'{"prompt": "x", "temperature": "' + "é".encode() * 10_000 + b'"}', id="a long string"),
    ],
)
def test_a_long_input_is_cut(body: bytes) -> None:
    problems = refused(body)
    assert len(json.dumps(problems)) < 20 * MAX_ECHO
    for problem in problems:
        assert len(str(problem["input"])) <= MAX_ECHO + 1
        assert all(len(str(step)) <= MAX_ECHO + 1 for step in problem["loc"])


def test_a_short_input_comes_back_as_it_was() -> None:
    given_body = {"prompt": 1, "max_tokens": "many", "stop": {"a": [None, True, 1.5]}, "seed": 1.5, "stream": "yes"}
    assert {problem["loc"][1]: problem["input"] for problem in refused(json.dumps(given_body).encode())} == given_body


def test_of_very_many_problems_the_first_are_listed_and_the_others_counted() -> None:
    fields = {f"nonsense {n}": n for n in range(MAX_PROBLEMS + 17)}
    *listed, last = refused(json.dumps({"prompt": "x", **fields}).encode())
    assert [problem["loc"] for problem in listed] == [["body", name] for name in list(fields)[:MAX_PROBLEMS]]
    assert last["type"] == "too_many"
    assert last["msg"] == "17 more problems"


def test_exactly_as_many_problems_as_may_be_listed_are_listed() -> None:
    problems = refused(json.dumps({"prompt": "x", **{f"n{n}": n for n in range(MAX_PROBLEMS)}}).encode())
    assert len(problems) == MAX_PROBLEMS
    assert {problem["type"] for problem in problems} == {"extra_forbidden"}


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_body_at_all_is_more_than_refused(body: bytes) -> None:
    refused(body)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    )
)
def test_whatever_value_a_field_has_the_refusal_is_json(value: Any) -> None:
    assert refused(json.dumps({"prompt": "x", "nonsense": value}).encode())[0]["type"] == "extra_forbidden"


# --- Headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=utf-8",
        " application/json ",
        "application/vnd.api+json",
    ],
)
def test_a_json_media_type_is_taken(content_type: str) -> None:
    contract.check_media_type(content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=json",
        "application/jsonx",
        "application/+json",
        "application/json, text/plain",
        "text/plain; x=application/json",
        "x" * 10_000,
    ],
)
def test_any_other_media_type_is_415(content_type: str | None) -> None:
    with pytest.raises(contract.Refusal) as caught:
        contract.check_media_type(content_type)
    answer = contract.dialect("/generate").refusal(caught.value)
    assert answer.status == 415
    assert "application/json" in content(answer)["detail"]
    assert len(answer.body) < 2 * MAX_ECHO


@pytest.mark.parametrize("sane", ["a", "3f2b-77", "trace:1.2_3", "x" * 128])
def test_a_sane_request_id_is_kept(sane: str) -> None:
    assert contract.request_id(sane) == sane


@pytest.mark.parametrize("insane", [None, "", " ", "a b", "a\nb", "a\r\nb", "a\n", "é", "x" * 129, "a/b", "a=b", "%0a"])
def test_any_other_request_id_is_replaced(insane: str | None) -> None:
    made = contract.request_id(insane)
    assert made != insane
    assert contract.request_id(made) == made
    assert contract.request_id(insane) != made


# --- Answers ----------------------------------------------------------------------------------------------------------


def test_each_refusal_has_its_answer() -> None:
    too_long = contract.dialect("/generate").refusal(PromptTooLong(prompt_tokens=4000, max_tokens=128, context=4096))
    assert too_long.status == 422
    (problem,) = content(too_long)["detail"]
    assert list(problem) == ["type", "loc", "msg", "input"]
    assert problem["loc"] == ["body", "prompt"]
    for length in ("4000", "128", "4096"):
        assert length in problem["msg"]
    unusable = contract.dialect("/generate").refusal(UnusablePrompt("no token for it"))
    assert unusable.status == 422
    (problem,) = content(unusable)["detail"]
    assert list(problem) == ["type", "loc", "msg", "input"]
    assert problem["msg"] == "no token for it"
    for unavailable, status in ((QueueFull("full"), 503), (EngineFailed("dead"), 500)):
        answer = contract.dialect("/generate").refusal(unavailable)
        assert (answer.status, content(answer)) == (status, {"detail": str(unavailable)})


APIS = ("/generate", "/tokenize", "/v1/completions", "/v1/responses", "/v1/messages")


@pytest.mark.parametrize("path", APIS)
def test_each_api_says_whether_to_come_back(path: str) -> None:
    for passing in (QueueFull("full"), EngineUnavailable("loading")):
        answer = contract.dialect(path).refusal(passing)
        assert (answer.status, answer.headers) == (503, {"retry-after": "1"})
    later = contract.dialect(path).refusal(QueueFull("full", 17))
    assert (later.status, later.headers) == (503, {"retry-after": "17"})
    for_good = contract.dialect(path).refusal(EngineFailed("dead"))
    assert (for_good.status, for_good.headers) == (500, {"x-should-retry": "false"})


def test_an_error_that_is_no_refusal_is_not_answered_as_one() -> None:
    with pytest.raises(TypeError):
        contract.dialect("/generate").refusal(ValueError("x"))


def test_a_completion_joins_the_tokens_and_rounds_the_times() -> None:
    tokens = [Token("Hi", 5, 1.0, is_first=True), Token(" 😀", 6, 2.0, is_first=False)]
    answer = answered([*tokens, FINISHED])
    assert answer.status == 200
    assert content(answer) == {
        "text": "Hi 😀",
        "token_ids": [5, 6],
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "cached_tokens": 0,
        "completion_tokens": 2,
        "prefill_time_ms": 1.235,
        "decode_time_ms": 2.0,
        "total_time_ms": 4.0,
        "tokens_per_second": 500.0,
    }


@pytest.mark.parametrize(("kind", "status"), list(STATUSES.items()))
def test_a_failed_generation_that_was_not_streamed_is_an_error_status(kind: Any, status: int) -> None:
    answer = answered([Failed("why", kind)])
    assert (answer.status, content(answer)) == (status, {"detail": "why"})
    assert ("retry-after" in answer.headers) == (status == 503)


def test_health_is_503_unless_it_is_ok() -> None:
    assert contract.REPORTS["/health"](Vitals("ok", False, "m", Counters(1, 2, 3), True, bytes)).status == 200
    answer = contract.REPORTS["/health"](Vitals("loading", False, "m", Counters(0, 0, 0), True, bytes))
    assert answer.status == 503
    counters = {"running": 0, "waiting": 0, "generated_tokens": 0}
    assert content(answer) == {"status": "loading", "model": "m", **counters, "transcript": True}


@given(text=st.text(st.characters(codec="utf-8")))
def test_no_token_breaks_its_frame(text: str) -> None:
    assert event_of(frame(stream_event(Token(text, 1, 2.0, is_first=False)))) == {
        "token": text,
        "token_id": 1,
        "step_ms": 2.0,
    }


@pytest.mark.parametrize("path", contract.PAGES)
def test_a_page_asks_only_its_own_server(path: str) -> None:
    page = contract.page(path).body.decode()
    fetched = re.findall(r"""(?:src|srcset|action|data|poster)\s*=\s*["']?([^"'\s>]+)""", page)
    fetched += re.findall(r"""<link[^>]+href\s*=\s*["']?([^"'\s>]+)""", page)
    fetched += re.findall(r"""(?:fetch|import|url|EventSource|WebSocket|open)\(\s*["'`]?([^"'`)\s]+)""", page)
    fetched += re.findall(r"""(?:@import|from)\s+["']([^"']+)""", page)
    assert [url for url in fetched if re.match(r"(https?:|wss?:)?//", url)] == []


def test_the_pages_with_one_request_at_a_time_have_the_same_instruments_in_them() -> None:
    instruments = (Path(contract.__file__).parents[1] / "page" / "instruments.html").read_bytes()
    assert [path for path in contract.PAGES if instruments in contract.page(path).body] == ["/", "/prompt"]
    assert not any(b"<!-- include" in contract.page(path).body for path in contract.PAGES)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_a_frame_is_one_line_even_to_a_client_that_splits_at_every_unicode_line_end(line_end: str) -> None:
    data, empty = frame(stream_event(Token(f"a{line_end}b", 7, ms=1.0, is_first=False))).decode().splitlines()
    assert json.loads(data.removeprefix("data: "))["token"] == f"a{line_end}b"
    assert empty == ""


@pytest.mark.parametrize(
    ("part", "most", "name"), [(b"[]", MAX_CONTAINERS, "lists and objects"), (b'""', MAX_STRINGS, "strings")]
)
def test_a_body_may_have_as_many_parts_as_its_refusal_says(part: bytes, most: int, name: str) -> None:
    check_counts(part * most)
    with pytest.raises(contract.Refusal, match=f"at most {most} {name} in the body, got {most + 1}") as refusal:
        check_counts(part * (most + 1))
    assert refusal.value.status == 413

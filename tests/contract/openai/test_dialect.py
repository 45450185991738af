"""Errors of the OpenAI API: their status, and their four fields."""

import json
from typing import Any

import pytest

import contract
from contract.openai.dialect import failure_frame
from interface.errors import EngineFailed, EngineUnavailable, PromptTooLong, QueueFull, RequestError
from interface.events import Failed
from tests.support.asgi_client import event_of

CHAT = "/v1/chat/completions"
INVALID = "invalid_request_error"


def error_of(answer: contract.Answer) -> dict[str, Any]:
    """The content of an error, which always has the same four fields."""
    body = json.loads(answer.body)
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert list(error) == ["message", "type", "param", "code"]
    return error


@pytest.mark.parametrize(
    ("error", "status", "type", "param", "code"),
    [
        (contract.Refusal(400, "wrong", param="n"), 400, INVALID, "n", None),
        (contract.Refusal(404, "no", param="model", code="model_not_found"), 404, INVALID, "model", "model_not_found"),
        (PromptTooLong(2900, 1, 2048), 400, INVALID, "messages", "context_length_exceeded"),
        (RequestError("no", "messages.1.role"), 400, INVALID, "messages.1.role", None),
        (RequestError("no", "tools"), 400, INVALID, "tools", None),
        (RequestError("no"), 400, INVALID, None, None),
        (QueueFull("full"), 503, "overloaded_error", None, None),
        (EngineUnavailable("loading"), 503, "service_unavailable_error", None, None),
        (EngineFailed("dead"), 500, "server_error", None, None),
    ],
)
def test_each_error_has_its_status_and_its_type(
    error: Exception, status: int, type: str, param: str | None, code: str | None
) -> None:
    answer = contract.dialect(CHAT).refusal(error)
    assert answer.status == status
    content = error_of(answer)
    assert (content["type"], content["param"], content["code"]) == (type, param, code)


@pytest.mark.parametrize(("path", "field"), [(CHAT, "messages"), ("/v1/responses", "input"), ("/v1/x", "prompt")])
def test_a_prompt_has_the_name_that_its_endpoint_gives_it(path: str, field: str) -> None:
    assert error_of(contract.dialect(path).refusal(PromptTooLong(9, 1, 8)))["param"] == field
    assert error_of(contract.dialect(path).refusal(RequestError("no", "messages.0")))["param"] == f"{field}.0"


def test_a_full_context_is_reported_in_words_that_clients_recognise() -> None:
    message = error_of(contract.dialect(CHAT).refusal(PromptTooLong(2900, 1, 2048)))["message"]
    assert "prompt is too long: 2900 tokens" in message
    assert "maximum context length is 2048 tokens" in message


def test_the_length_of_a_prompt_that_was_not_counted_to_its_end_is_a_lower_bound() -> None:
    for path in (CHAT, "/v1/messages", "/generate"):
        answer = contract.dialect(path).refusal(PromptTooLong(3286, 1, 2048, is_counted=False))
        assert b"at least 3286 tokens" in answer.body


def test_a_client_is_told_when_to_try_again_and_when_never() -> None:
    for passing in (QueueFull("full"), EngineUnavailable("loading")):
        answer = contract.dialect(CHAT).refusal(passing)
        assert "retry-after" in answer.headers
        assert "x-should-retry" not in answer.headers
    for path in (CHAT, "/v1/messages"):
        answer = contract.dialect(path).refusal(EngineFailed("dead"))
        assert (answer.status, answer.headers) == (500, {"x-should-retry": "false"})


def test_an_unknown_path_and_method_are_errors_of_the_same_shape() -> None:
    assert error_of(contract.dialect(CHAT).refusal(contract.no_such_path("/v1/nothing")))["type"] == INVALID
    answer = contract.dialect(CHAT).refusal(contract.no_such_method(["POST"]))
    assert (answer.status, answer.headers) == (405, {"allow": "POST"})
    assert error_of(answer)["type"] == INVALID
    assert error_of(contract.dialect(CHAT).internal_error())["type"] == "server_error"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/messages", "/v1/messages"),
        ("/v1/chat/completions/chat/completions", "/v1/chat/completions"),
        ("/openai/deployments/a/chat/completions", "/v1/chat/completions"),
        ("/v1/completions/", "/v1/completions"),
        ("//health", "/health"),
        ("/messages/count_tokens", "/v1/messages/count_tokens"),
        ("/v1/embeddings", None),
        ("/", None),
        ("/" * 60_000, None),
    ],
)
def test_the_path_that_a_wrong_base_url_meant_is_suggested(path: str, meant: str | None) -> None:
    message = contract.no_such_path(path).message
    assert "Not Found" in message
    assert ("Did you mean" in message) == (meant is not None)
    assert meant is None or f"Did you mean {meant}?" in message


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/generat", "/generate"),
        ("/v1/chat/completion", "/v1/chat/completions"),
        ("/v1/respones", "/v1/responses"),
        ("/metric", "/metrics"),
        ("/v1/nothing", None),
        ("/robots.txt", None),
    ],
)
def test_the_right_spelling_of_a_misspelt_path_is_suggested(path: str, meant: str | None) -> None:
    hint = "" if meant is None else f". Did you mean {meant}?"
    assert contract.no_such_path(path).message == "Not Found" + hint


@pytest.mark.parametrize(
    "path",
    [
        "/v1/embeddings",
        "/v1/files",
        "/v1/batches",
        "/v1/complete",
        "/v1/messages/batches",
        "/v1/images/generations",
        "/v1/audio/speech",
        "/v1/moderations",
        "/v1/vector_stores/vs_1",
        "/v1/threads",
        "/v1/skills",
    ],
)
def test_a_path_that_other_servers_have_says_what_to_do(path: str) -> None:
    assert contract.no_such_path(path).message.startswith("Not Found. This ")


def test_other_paths_keep_their_own_shape() -> None:
    for path in ("/generate", "/v1x", "/"):
        assert "detail" in json.loads(contract.dialect(path).refusal(QueueFull("full")).body)


FAILURES = {"engine_error": (500, "server_error"), "shutdown": (503, "server_error")}
FAILURES |= {"unusable_grammar": (400, "invalid_request_error")}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_stream_that_fails_ends_with_an_error(kind: Any) -> None:
    event = event_of(failure_frame(Failed("why", kind)))
    code, type = FAILURES[kind]
    assert event == {"error": {"message": "why", "type": type, "param": None, "code": code}}


def test_an_error_that_is_no_refusal_is_not_answered_as_one() -> None:
    with pytest.raises(TypeError):
        contract.dialect(CHAT).refusal(ValueError("x"))

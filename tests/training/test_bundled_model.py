"""A newcomer's first steps: the bundled model behind each door, as in the README, over a real socket."""

import json
from collections.abc import Iterator

import pytest

from tests.support.http_client import Connection
from tests.support.serving import DOORS, in_a_process, wait_until

EMOJI_PROMPT = "Show me some emoji"
LOADING = 120


@pytest.fixture(scope="module", params=DOORS)
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A door on the bundled model, once it is ready."""
    with in_a_process(["-m", "uvicorn", f"{request.param}:app", "--port", "0"]) as process:
        port = process.port
        wait_until(lambda: health(port)["status"] == "ok", "the bundled model")
        yield port


def health(port: int) -> dict[str, object]:
    with Connection(port) as connection:
        content: dict[str, object] = connection.request("GET", "/health").json()
        return content


@pytest.mark.timeout(LOADING)
def test_two_and_two_is_four(port: int) -> None:
    with Connection(port) as connection:
        connection.send_generate("What is 2 + 2?", stream=False)
        answer = connection.read_response().json()
    assert answer["text"].strip().rstrip(".") == "The answer is 4"
    assert answer["finish_reason"] == "stop"


@pytest.mark.timeout(LOADING)
def test_two_and_two_is_four_in_a_chat_too(port: int) -> None:
    with Connection(port) as connection:
        connection.send_generate(as_chat("What is 2 + 2?"), stream=False)
        answer = connection.read_response().json()
    assert answer["text"].strip().rstrip(".") == "The answer is 4"


@pytest.mark.timeout(LOADING)
def test_streamed_emoji_are_never_half_characters(port: int) -> None:
    with Connection(port) as connection:
        connection.send_generate(EMOJI_PROMPT, temperature=0)
        status, _ = connection.read_head()
        chunks = list(connection.chunks())
    assert status == 200
    assert chunks[-1] == b"data: [DONE]\n\n"
    events = [json.loads(chunk.removeprefix(b"data: ")) for chunk in chunks[:-1]]
    tokens = [event["token"] for event in events if "token" in event]
    assert "😀" in "".join(tokens)
    assert "" in tokens, "an emoji spans tokens, so some of them bring no text of their own"
    assert not any("\ufffd" in token for token in tokens)


def as_chat(question: str) -> str:
    """The chat template's text for one question, as a client that knows the model would send it."""
    from transformers import AutoTokenizer

    from config import BUNDLED_MODEL

    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    conversation = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    return text.removeprefix(tokenizer.bos_token or "")  # /generate puts it there itself

"""An answer that is not streamed, message by message (see tests/support/by_message.py)."""

import pytest

from study.common.engine import HELLO
from tests.support.asgi_client import events_of, until
from tests.support.serving import Door, by_hand

pytestmark = pytest.mark.anyio


async def test_an_answer_that_is_not_streamed_has_the_text_its_tokens_and_their_times(door: Door) -> None:
    async with by_hand(door) as service:
        response = await service.client.post(prompt="hello there")
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-length"] == str(len(response.body))
    answer = response.json()
    times = ["prefill_time_ms", "decode_time_ms", "total_time_ms", "tokens_per_second"]
    assert list(answer) == [
        "text",
        "token_ids",
        "finish_reason",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        *times,
    ]
    assert {name: value for name, value in answer.items() if name not in times} == {
        "text": "".join(HELLO),
        "token_ids": [0, 1, 2, 3],
        "finish_reason": "stop",
        "prompt_tokens": 2,
        "cached_tokens": 0,
        "completion_tokens": 4,
    }
    assert all(answer[name] > 0 for name in times)


async def test_max_tokens_ends_a_text_with_the_reason_length(door: Door) -> None:
    async with by_hand(door) as service:
        answer = (await service.client.post(prompt="count 10", max_tokens=3)).json()
    assert (answer["text"], answer["finish_reason"], answer["completion_tokens"]) == ("0 1 2 ", "length", 3)


async def test_text_that_is_not_ascii_arrives_whole(door: Door) -> None:
    async with by_hand(door) as service:
        whole = (await service.client.post(prompt="emoji")).json()
        async with service.client.open_generate("emoji") as exchange:
            *tokens, _ = events_of((await exchange.response()).body)
    assert whole["text"] == "😀 你好"
    assert [token["token"] for token in tokens] == ["", "", "", "😀", " 你好"]


async def test_nothing_is_sent_before_an_unstreamed_answer_is_complete(door: Door) -> None:
    async with by_hand(door) as service:
        service.engine.hold()
        async with service.client.open_generate("hello", stream=False) as exchange:
            service.engine.release(3)
            await until(lambda: service.engine.generated_tokens == 3)
            assert exchange.sent == []
            service.engine.release()
            assert (await exchange.response()).json()["completion_tokens"] == 4

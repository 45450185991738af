"""OpenAI's own Python client against a real uvicorn, through both doors, on the scripted engine."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from config import Config
from study.common.engine import CONTEXT, HELLO, ScriptedEngine
from tests.support.serving import Door, Service, on_a_socket, wait_until

MODEL = "org/small"
TEXT = "".join(HELLO)
ADD: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
CALL_ADD = 'call add {"a": 1, "b": 2}'
USAGE: Any = {"include_usage": True}


class Capital(BaseModel):
    country: str
    capital: str


PARIS = Capital(country="France", capital="Paris")


@pytest.fixture
def service(door: Door) -> Iterator[Service]:
    with on_a_socket(door, ScriptedEngine(slots=4, max_waiting=0), Config(model_name=f"{MODEL},other")) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key="any", max_retries=0) as client:
        yield client


def user(content: str) -> Any:
    return [{"role": "user", "content": content}]


# --- Models -----------------------------------------------------------------------------------------------------------


def test_the_served_names_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL, "other"]
    assert client.models.retrieve(MODEL).id == MODEL


# --- Chat completions -------------------------------------------------------------------------------------------------


def test_the_client_reads_a_whole_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=user("hello"))
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(HELLO)
    assert answer.model == MODEL


def test_a_stream_comes_token_by_token_and_ends_with_the_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(model=MODEL, messages=user("hello"), stream=True, stream_options=USAGE)
    )
    texts = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert texts == HELLO
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(HELLO)


def test_three_choices_of_a_stream_are_told_apart(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=user("count 5"), n=3) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == ["0 1 2 3 4 "] * 3
    whole = client.chat.completions.create(model=MODEL, messages=user("count 5"), n=3)
    assert [choice.message.content for choice in whole.choices] == ["0 1 2 3 4 "] * 3
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 15


def test_the_stream_helper_ends_with_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=user("emoji"), stream_options=USAGE) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    whole = client.chat.completions.create(model=MODEL, messages=user("emoji"))
    assert final.choices[0].message.content == whole.choices[0].message.content == "".join(deltas) == "😀 你好"
    assert final.usage == whole.usage


def test_an_answer_is_parsed_into_a_model(client: openai.OpenAI) -> None:
    messages = user(f"say {PARIS.model_dump_json()}")
    answer = client.chat.completions.parse(model=MODEL, messages=messages, response_format=Capital)
    assert answer.choices[0].message.parsed == PARIS
    with client.chat.completions.stream(model=MODEL, messages=messages, response_format=Capital) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == PARIS


def test_a_cut_answer_is_not_parsed(client: openai.OpenAI) -> None:
    messages = user(f"say {PARIS.model_dump_json()}")
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model=MODEL, messages=messages, response_format=Capital, max_completion_tokens=2)


@pytest.mark.parametrize(
    "choice", ["auto", "required", {"type": "function", "function": {"name": "add"}}], ids=["auto", "required", "named"]
)
def test_a_tool_is_called_and_its_result_told_in_a_second_turn(client: openai.OpenAI, choice: Any) -> None:
    messages = user(CALL_ADD)
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=[ADD], tool_choice=choice)
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    result = sum(json.loads(call.function.arguments).values())
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": f"say {result}"}]
    second = client.chat.completions.create(model=MODEL, messages=messages, tools=[ADD])
    assert second.choices[0].message.content == "3"


def test_a_streamed_tool_call_is_put_together_and_parsed(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=user(CALL_ADD), tools=[ADD]) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        message = stream.get_final_completion().choices[0].message
    assert [(event.name, event.parsed_arguments) for event in done] == [("add", {"a": 1, "b": 2})]
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.name == "add"
    assert message.role == "assistant"


def test_reasoning_is_an_extra_field(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(model=MODEL, messages=user("think 4")).choices[0].message
    assert (message.content, message.model_extra) == ("4", {"reasoning_content": "Let me see "})


def test_log_probabilities_of_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=user("hello"), logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [token.token for token in logprobs.content] == HELLO
    assert all(len(token.top_logprobs) == 2 for token in logprobs.content)


def test_a_stream_that_is_left_is_aborted(client: openai.OpenAI, service: Service) -> None:
    stream = client.chat.completions.create(model=MODEL, messages=user("drip 300"), stream=True, n=2)
    next(iter(stream))
    stream.close()
    wait_until(lambda: sorted(service.engine.aborted) == [1, 2], "the abort of both choices")


def test_stored_completions_are_listed_read_changed_and_deleted(client: openai.OpenAI) -> None:
    stored = client.chat.completions
    first = stored.create(model=MODEL, messages=user("hello"), store=True, metadata={"topic": "greeting"})
    with stored.stream(model=MODEL, messages=user("say 4"), store=True) as stream:
        second = stream.get_final_completion()
    assert [completion.id for completion in stored.list(limit=1)] == [first.id, second.id], "all pages of them"
    assert [completion.id for completion in stored.list(metadata={"topic": "greeting"}, model=MODEL)] == [first.id]
    assert stored.retrieve(first.id).choices == first.choices
    assert stored.retrieve(second.id).choices[0].message.content == "4"
    (message,) = stored.messages.list(first.id)
    assert (message.id, message.content) == (f"{first.id}-0", "hello")
    assert stored.update(first.id, metadata={"topic": "sums"}).metadata == {"topic": "sums"}
    assert [completion.id for completion in stored.list(metadata={"topic": "sums"})] == [first.id]
    assert stored.delete(first.id).deleted
    with pytest.raises(openai.NotFoundError, match="not found"):
        stored.retrieve(first.id)


# --- Completions ------------------------------------------------------------------------------------------------------


def test_a_list_of_prompts_is_continued(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=["hello", "count 3"], n=2)
    assert [choice.text for choice in answer.choices] == [TEXT, TEXT, "0 1 2 ", "0 1 2 "]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


def test_a_streamed_completion_has_the_whole_text(client: openai.OpenAI) -> None:
    chunks = client.completions.create(model=MODEL, prompt="hello", stream=True, stream_options=USAGE)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == TEXT


def test_the_client_reads_log_probabilities_of_a_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="hello", logprobs=2, echo=True)
    logprobs = answer.choices[0].logprobs
    assert answer.choices[0].text == "hello" + TEXT
    assert logprobs is not None
    assert logprobs.tokens == ["hello", *HELLO]
    assert logprobs.token_logprobs is not None
    assert logprobs.token_logprobs[0] is None
    assert logprobs.text_offset == [0, 5, 10, 11, 17]


# --- Responses --------------------------------------------------------------------------------------------------------


def test_the_client_reads_a_whole_response(client: openai.OpenAI) -> None:
    response = client.responses.create(model=MODEL, input="hello", instructions="Be brief.")
    assert (response.output_text, response.status) == (TEXT, "completed")
    assert response.usage is not None
    assert response.usage.output_tokens == len(HELLO)


def test_a_streamed_response_ends_with_what_the_whole_one_says(client: openai.OpenAI) -> None:
    with client.responses.stream(model=MODEL, input="think 4") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert final.output_text == "".join(deltas) == "4"
    assert [item.type for item in final.output] == ["reasoning", "message"]
    whole = client.responses.create(model=MODEL, input="think 4")
    assert whole.output_text == final.output_text
    assert whole.usage == final.usage


def test_a_response_is_parsed_into_a_model(client: openai.OpenAI) -> None:
    response = client.responses.parse(model=MODEL, input=f"say {PARIS.model_dump_json()}", text_format=Capital)
    assert response.output_parsed == PARIS


def test_a_function_is_called_and_its_output_told_in_a_second_turn(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", **ADD["function"]}]
    items: Any = user(CALL_ADD)
    first = client.responses.create(model=MODEL, input=items, tools=tools)
    (call,) = first.output
    assert call.type == "function_call"
    output = f"say {sum(json.loads(call.arguments).values())}"
    items += [call, {"type": "function_call_output", "call_id": call.call_id, "output": output}]
    assert client.responses.create(model=MODEL, input=items, tools=tools).output_text == "3"


def test_a_kept_response_is_retrieved_listed_and_deleted(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="hello")
    second = client.responses.create(model=MODEL, input="say 4", previous_response_id=first.id)
    assert client.responses.retrieve(second.id).model_dump() == second.model_dump()
    pages = client.responses.input_items.list(second.id, limit=2, order="asc")
    texts = [item.content[0].text for item in pages if item.type == "message"]  # type: ignore[union-attr]
    assert texts == ["hello", TEXT, "say 4"], "all pages of it"
    newest = client.responses.input_items.list(second.id).data[0]
    assert newest.type == "message"
    assert newest.role == "user"
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(second.id)
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.responses.retrieve(second.id)
    with pytest.raises(openai.BadRequestError, match="in the background"):
        client.responses.retrieve(first.id, stream=True)


@pytest.mark.anyio
async def test_the_async_client_finds_kept_responses_too(service: Service) -> None:
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key="any") as client:
        response = await client.responses.create(model=MODEL, input="hello")
        assert (await client.responses.retrieve(response.id)).output_text == TEXT
        assert [item.type async for item in client.responses.input_items.list(response.id)] == ["message"]
        await client.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.delete(response.id)


def test_a_conversation_is_kept_and_grows(client: openai.OpenAI) -> None:
    conversation = client.conversations.create(metadata={"topic": "greeting"})
    response = client.responses.create(model=MODEL, input="hello", conversation=conversation.id)
    assert response.conversation is not None
    assert response.conversation.id == conversation.id
    with client.responses.stream(model=MODEL, input="say 4", conversation={"id": conversation.id}) as stream:
        assert stream.get_final_response().output_text == "4"
    items = client.conversations.items
    kept = list(items.list(conversation.id, order="asc", limit=3))
    assert [item.content[0].text for item in kept if item.type == "message"] == ["hello", TEXT, "say 4", "4"]  # type: ignore[union-attr]
    added = items.create(conversation.id, items=user("say 5")).data[0]
    assert added.id is not None
    assert items.retrieve(added.id, conversation_id=conversation.id) == added
    assert items.delete(added.id, conversation_id=conversation.id).id == conversation.id
    assert client.conversations.retrieve(conversation.id) == conversation
    assert client.conversations.update(conversation.id, metadata={"a": "b"}).metadata == {"a": "b"}
    assert client.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.responses.create(model=MODEL, input="hello", conversation=conversation.id)


def test_the_tokens_of_an_input_are_counted(client: openai.OpenAI) -> None:
    assert client.responses.input_tokens.count(model=MODEL, input="one two three").input_tokens == 3


# --- Errors -----------------------------------------------------------------------------------------------------------


def test_a_wrong_value_is_a_bad_request_that_names_the_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        client.chat.completions.create(model=MODEL, messages=user("hello"), temperature=3)
    assert caught.value.param == "temperature"
    assert caught.value.request_id


def test_an_unknown_model_is_not_found_and_the_error_lists_the_served_ones(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=MODEL) as caught:
        client.chat.completions.create(model="gpt-x", messages=user("hello"))
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/none")


def test_a_prompt_beyond_the_context_is_a_bad_request_with_the_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=f"maximum context length is {CONTEXT}") as caught:
        client.chat.completions.create(model=MODEL, messages=user("x " * CONTEXT))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


def test_more_tokens_than_there_is_room_for_are_clamped(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=user("hello"), max_tokens=10 * CONTEXT)
    assert answer.choices[0].message.content == TEXT


def test_a_full_queue_is_tried_again_and_then_told(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=MODEL, messages=user("hello"), n=5)
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "1"


def test_a_stream_that_fails_raises_and_does_not_just_end(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model=MODEL, messages=user("explode"), stream=True)
    with pytest.raises(openai.APIError, match="the script says so"):
        list(stream)


def test_a_dead_engine_is_not_asked_again(client: openai.OpenAI, service: Service) -> None:
    with pytest.raises(openai.InternalServerError):
        client.completions.create(model=MODEL, prompt="explode")
    wait_until(lambda: service.driver.status != "ok", "the failure")
    patient = client.with_options(max_retries=5)  # five tries would take seconds; this header allows none
    with pytest.raises(openai.InternalServerError) as caught:
        patient.completions.create(model=MODEL, prompt="hello")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"

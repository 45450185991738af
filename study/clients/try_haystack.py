"""Haystack."""

from typing import Literal

from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage, StreamingChunk
from haystack.utils import Secret
from pydantic import BaseModel

from study.clients.checks import MODEL, QUESTION, V1, check, expect

messages = [ChatMessage.from_user(QUESTION)]


class Address(BaseModel):
    street: Literal["Elm Street", "Main Street"]  # a small model may never end a string


def generator(**settings: object) -> OpenAIChatGenerator:
    return OpenAIChatGenerator(
        api_key=Secret.from_token("any"),
        api_base_url=V1,
        model=MODEL,
        max_retries=0,
        generation_kwargs={"temperature": 0, **settings},
    )


def run() -> str:
    (answer,) = generator().run(messages)["replies"]
    expect(bool(answer.text) and answer.meta["usage"]["total_tokens"] > 0, "a text and usage")
    return str(answer.text)


def stream() -> str:
    pieces: list[StreamingChunk] = []
    (answer,) = generator().run(messages, streaming_callback=pieces.append)["replies"]
    expect("".join(piece.content for piece in pieces) == answer.text, "the same text")
    return f"{len(pieces)} pieces"


def structured() -> str:
    (answer,) = generator(response_format=Address).run(messages)["replies"]
    return str(Address.model_validate_json(answer.text))


check("run", run)
check("streaming_callback", stream)
check("response_format", structured)

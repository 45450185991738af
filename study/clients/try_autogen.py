"""AutoGen."""

import asyncio
from typing import Literal

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.messages import ModelClientStreamingChunkEvent
from autogen_ext.models.openai import OpenAIChatCompletionClient
from pydantic import BaseModel

from study.clients.checks import MODEL, QUESTION, V1, check, expect

INFO: dict = {
    "vision": False,
    "function_calling": True,
    "json_output": True,
    "structured_output": True,
    "family": "unknown",
}


class Address(BaseModel):
    street: Literal["Elm Street", "Main Street"]  # a small model may never end a string


async def events(**settings: object) -> list:
    """All that an agent does about the question; its result comes last."""
    client = OpenAIChatCompletionClient(
        model=MODEL, base_url=V1, api_key="any", temperature=0, max_retries=0, model_info=INFO
    )
    done = [event async for event in AssistantAgent("assistant", client, **settings).run_stream(task=QUESTION)]
    await client.close()
    return done


def chat() -> str:
    answer = asyncio.run(events())[-1].messages[-1]
    expect(bool(answer.content) and answer.models_usage.completion_tokens > 0, "a text and usage")
    return str(answer.content)


def stream() -> str:
    done = asyncio.run(events(model_client_stream=True))
    pieces = [event.content for event in done if isinstance(event, ModelClientStreamingChunkEvent)]
    expect("".join(pieces) == chat(), f"the whole answer's text, got {pieces}")
    return f"{len(pieces)} pieces"


def structured() -> str:
    found = asyncio.run(events(output_content_type=Address))[-1].messages[-1].content
    expect(isinstance(found, Address), f"an address, got {found!r}")
    return str(found)


check("run", chat)
check("stream equals whole", stream)
check("output_content_type", structured)

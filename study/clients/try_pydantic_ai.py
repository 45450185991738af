"""pydantic-ai."""

from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from study.clients.checks import MODEL, QUESTION, V1, check, expect

model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=V1, api_key="any"))


class Address(BaseModel):
    street: Literal["Elm Street", "Main Street"]  # a small model may never end a string
    number: int


def text() -> str:
    return str(Agent(model, instructions="Be brief.").run_sync(QUESTION).output)


def structured(output_type: object) -> str:
    found = Agent(model, output_type=output_type).run_sync(QUESTION).output
    expect(isinstance(found, Address), "an address")
    return str(found)


check("run_sync", text)
check("output_type: a required tool", lambda: structured(Address))
check("output_type: NativeOutput", lambda: structured(NativeOutput(Address)))

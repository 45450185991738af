"""Agno."""

from typing import Literal

from agno.agent import Agent
from agno.models.openai import OpenAIResponses
from agno.models.openai.like import OpenAILike
from pydantic import BaseModel

from study.clients.checks import MODEL, QUESTION, V1, check, expect


class Address(BaseModel):
    street: Literal["Elm Street", "Main Street"]  # a small model may never end a string


def agent(model: type[OpenAILike] | type[OpenAIResponses] = OpenAILike, **settings: object) -> Agent:
    return Agent(model=model(id=MODEL, base_url=V1, api_key="any", temperature=0), telemetry=False, **settings)


def chat() -> str:
    answer = agent().run(QUESTION)
    expect(bool(answer.content), "a text")
    return str(answer.content)


def stream() -> str:
    pieces = [event.content for event in agent().run(QUESTION, stream=True) if event.event == "RunContent"]
    expect("".join(pieces) == chat(), f"the whole answer's text, got {pieces}")
    return f"{len(pieces)} pieces"


def structured() -> str:
    found = agent(output_schema=Address).run(QUESTION).content
    expect(isinstance(found, Address), f"an address, got {found!r}")
    return str(found)


def responses() -> str:
    answer = agent(OpenAIResponses).run(QUESTION)
    expect(bool(answer.content), "a text")
    return str(answer.content)


check("run", chat)
check("stream equals whole", stream)
check("output_schema", structured)
check("run: responses", responses)

"""langchain-openai."""

from typing import Literal

from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

from study.clients.checks import MODEL, QUESTION, V1, check, expect

chat = ChatOpenAI(base_url=V1, api_key="any", model=MODEL, max_retries=0, temperature=0)


class Address(BaseModel):
    """A place to live."""

    street: Literal["Elm Street", "Main Street"]  # a small model may never end a string
    number: int


def invoke() -> str:
    answer = chat.invoke(QUESTION)
    expect(bool(answer.content) and answer.usage_metadata["total_tokens"] > 0, "a text and usage")
    return str(answer.content)


def stream() -> str:
    pieces = [piece.content for piece in chat.stream(QUESTION)]
    expect("".join(pieces) == chat.invoke(QUESTION).content, "the whole answer's text")
    return f"{len(pieces)} pieces"


def structured(method: str) -> str:
    found = chat.with_structured_output(Address, method=method).invoke(QUESTION)
    expect(isinstance(found, Address), "an address")
    return str(found)


def completion() -> str:
    return str(OpenAI(base_url=V1, api_key="any", model=MODEL, max_tokens=8, max_retries=0).invoke("Once"))


check("invoke", invoke)
check("stream equals whole", stream)
check("structured output: json_schema", lambda: structured("json_schema"))
check("structured output: function_calling", lambda: structured("function_calling"))
check("completion", completion)

"""langchain-anthropic."""

from typing import Literal

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from study.clients.checks import BASE, MODEL, QUESTION, check, expect

chat = ChatAnthropic(base_url=BASE, api_key="any", model=MODEL, max_tokens=60, max_retries=0, temperature=0)


class Address(BaseModel):
    """A place to live."""

    street: Literal["Elm Street", "Main Street"]  # a small model may never end a string
    number: Literal[1, 2, 3]


@tool
def move(street: Literal["Elm Street", "Main Street"]) -> str:
    """Moves."""
    return "done"


def invoke() -> str:
    answer = chat.invoke(QUESTION)
    expect(bool(answer.content) and answer.usage_metadata["total_tokens"] > 0, "a text and usage")
    return str(answer.content)


def stream() -> str:
    pieces = [piece.text for piece in chat.stream(QUESTION)]
    expect("".join(pieces) == chat.invoke(QUESTION).text, "the whole answer's text")
    return f"{len(pieces)} pieces"


def structured(method: str) -> str:
    found = chat.with_structured_output(Address, method=method).invoke(QUESTION)
    expect(isinstance(found, Address), "an address")
    return str(found)


def tools() -> str:
    called = chat.bind_tools([move], tool_choice="move").invoke(QUESTION)
    (call,) = called.tool_calls
    result = ToolMessage(move.invoke(call["args"]), tool_call_id=call["id"])
    turns = [HumanMessage(QUESTION), called, result]
    return str(chat.bind_tools([move], tool_choice={"type": "none"}).invoke(turns).text)


check("invoke", invoke)
check("stream equals whole", stream)
check("structured output: json_schema", lambda: structured("json_schema"))
check("structured output: function_calling", lambda: structured("function_calling"))
check("named tool, then its result", tools)

"""llama-index, through its class for servers that are like OpenAI's."""

from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from study.clients.checks import MODEL, QUESTION, V1, check, expect

llm = OpenAILike(
    model=MODEL,
    api_base=V1,
    api_key="any",
    temperature=0,
    max_retries=0,
    is_chat_model=True,
    is_function_calling_model=True,
    should_use_structured_outputs=True,
)
messages = [ChatMessage(role="user", content=QUESTION)]


class Address(BaseModel):
    """Where someone lives."""

    street: Literal["Elm Street", "Main Street"]  # a small model may never end a string
    number: int


def move(street: Literal["Elm Street", "Main Street"]) -> str:
    """Move to a street."""
    return street


def chat() -> str:
    text = llm.chat(messages).message.content or ""
    expect(bool(text), "a text")
    return text


def streamed() -> str:
    pieces = [piece.delta or "" for piece in llm.stream_chat(messages)]
    expect("".join(pieces) == chat(), "the text of the whole answer")
    return f"{len(pieces)} pieces"


def structured() -> str:
    found = llm.as_structured_llm(Address).chat(messages).raw
    expect(isinstance(found, Address), "an address")
    return str(found)


def tool() -> str:
    tools = [FunctionTool.from_defaults(move)]
    answer = llm.chat_with_tools(tools, QUESTION, tool_required=True)
    call, *_ = llm.get_tool_calls_from_response(answer)
    expect(call.tool_name == "move" and "street" in call.tool_kwargs, "a call of the tool")
    return str(call.tool_kwargs)


def completion() -> str:
    plain = OpenAILike(model=MODEL, api_base=V1, api_key="any", max_retries=0, is_chat_model=False, max_tokens=8)
    text = plain.complete("Once").text
    expect(bool(text), "a text")
    return text


check("chat", chat)
check("stream equals whole", streamed)
check("structured output", structured)
check("a required tool", tool)
check("completion", completion)

"""instructor, in each of its modes."""

from typing import Literal

import instructor
import openai
from pydantic import BaseModel

from study.clients.checks import MODEL, QUESTION, V1, check, expect


class Address(BaseModel):
    street: Literal["Elm Street", "Main Street"]  # a small model may never end a string
    number: int


def address(mode: instructor.Mode) -> str:
    client = instructor.from_openai(openai.OpenAI(base_url=V1, api_key="any", max_retries=0), mode=mode)
    found = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], response_model=Address, max_retries=0
    )
    expect(isinstance(found, Address), "an address")
    return str(found)


check("TOOLS", lambda: address(instructor.Mode.TOOLS))
check("JSON_SCHEMA", lambda: address(instructor.Mode.JSON_SCHEMA))

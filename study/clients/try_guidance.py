"""guidance: its client of OpenAI, and that of vLLM, which sends grammars."""

from typing import Any, Literal

from guidance import assistant, gen, json, models, select, user
from guidance.models.experimental import VLLMModel
from pydantic import BaseModel

from study.clients.checks import MODEL, QUESTION, V1, check, expect

settings: Any = {"base_url": V1, "api_key": "any"}


class Address(BaseModel):
    street: Literal["Elm Street", "Main Street"]  # a small model may never end a string


def answer(model: Any, wanted: Any) -> str:
    """Ask, and return what the model puts where `wanted` is, captured as `answer`."""
    with user():
        model += QUESTION
    with assistant():
        model += wanted
    return str(model["answer"])


def generated() -> str:
    text = answer(models.OpenAI(MODEL, **settings), gen("answer", max_tokens=20))
    expect(bool(text), "a text")
    return text


def structured() -> str:
    text = answer(models.OpenAI(MODEL, **settings), json("answer", schema=Address))
    return str(Address.model_validate_json(text))


def expression() -> str:
    text = answer(VLLMModel(MODEL, **settings), gen("answer", regex="[0-9]{2}"))
    expect(len(text) == 2 and text.isdecimal(), f"two digits, got {text!r}")
    return text


def selected() -> str:
    text = answer(VLLMModel(MODEL, **settings), select(["yes", "no"], name="answer"))
    expect(text in ("yes", "no"), f"one of the choices, got {text!r}")
    return text


check("gen", generated)
check("json", structured)
check("VLLMModel: regex", expression)
check("VLLMModel: select", selected)

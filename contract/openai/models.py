"""`GET /v1/models` and `GET /v1/models/{id}`: under which names the model is served, and how long its context is.

OpenAI's clients and Anthropic's ask at the same path, so an answer has the fields of both APIs.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from contract.answers import Answer, Wire, model_answer
from contract.bodies import check_model
from contract.endpoints import QUESTION_REFUSALS, Endpoint, Incoming, Question
from contract.openai.dialect import OpenAIError
from interface.engine import Lexicon

CREATED = int(time.time())
CREATED_AT = datetime.fromtimestamp(CREATED, UTC).isoformat().replace("+00:00", "Z")
OWNER = "token-by-token"


@dataclass(frozen=True, slots=True)
class Model(Wire):
    """A name under which the model is served. The fields from `type` on are Anthropic's."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    type: Literal["model"]
    display_name: str
    created_at: str
    lifecycle: Literal["active"]
    max_input_tokens: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class ModelList(Wire):
    """All names at once: `limit` and the other parameters with which Anthropic's clients ask for a page are ignored."""

    object: Literal["list"]
    data: list[Model]
    has_more: Literal[False]
    first_id: str
    last_id: str


def parse_list(incoming: Incoming) -> Question:
    def answer(lexicon: Lexicon) -> Answer:
        models = [_model(name, lexicon) for name in incoming.models]
        return model_answer(ModelList("list", models, False, models[0].id, models[-1].id))

    return Question(answer)


def parse_one(incoming: Incoming) -> Question:
    return Question(partial(_answer_one, check_model(incoming.name, incoming.models)))


def _answer_one(name: str, lexicon: Lexicon) -> Answer:
    return model_answer(_model(name, lexicon))


def _model(name: str, lexicon: Lexicon) -> Model:
    context = lexicon.info.context
    return Model(name, "model", CREATED, OWNER, context, "model", name, CREATED_AT, "active", context, context)


LIST = Endpoint(
    path="/v1/models",
    parse=parse_list,
    summary="The names under which the model is served",
    method="GET",
    answer=ModelList,
    refusals=QUESTION_REFUSALS,
    error=OpenAIError,
)
ONE = Endpoint(
    path="/v1/models/{name:path}",
    parse=parse_one,
    summary="One of these names",
    method="GET",
    answer=Model,
    refusals={404: "No model is served under this name."} | QUESTION_REFUSALS,
    error=OpenAIError,
)

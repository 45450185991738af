"""`GET /v1/models` and `GET /v1/models/{id}`: under which names the model is served, and how long its context is.

OpenAI's clients and Anthropic's ask at the same path, so an answer has the fields of both APIs. Only Anthropic's ask
for pages.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from contract.answers import Answer, Wire, model_answer
from contract.bodies import check_model
from contract.endpoints import QUESTION_REFUSALS, Endpoint, Incoming, Question
from contract.openai.dialect import OpenAIError
from contract.queries import read_query
from contract.refusals import Refusal
from contract.requests import shortened
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
    """The names, or a page of them. The fields from `has_more` on are Anthropic's."""

    object: Literal["list"]
    data: list[Model]
    has_more: bool
    first_id: str | None
    last_id: str | None


class ModelsQuery(BaseModel):
    """Which of the names come. Without these parameters, all do."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    limit: int | None = Field(default=None, ge=1, le=1000, description="The most names of one answer.")
    after_id: str = Field(default="", description="The name after which the page begins.")
    before_id: str = Field(default="", description="The name before which the page ends.")

    def page(self, names: Sequence[str]) -> tuple[Sequence[str], bool]:
        """Some of the names, and whether there are more of them in the direction of paging. Raises Refusal."""
        if self.before_id:
            before = names[: _place(names, self.before_id, "before_id")]
            first = max(0, len(before) - (self.limit or len(names)))
            return before[first:], first > 0
        rest = names[_place(names, self.after_id, "after_id") + 1 :] if self.after_id else names
        page = rest[: self.limit]
        return page, len(page) < len(rest)


def _place(names: Sequence[str], name: str, param: str) -> int:
    """Raises Refusal: 400, there is no such name."""
    if name not in names:
        message = f"{param}: Expected one of {', '.join(names)}, got {str(shortened(name))!r}"
        raise Refusal(400, message, param=param)
    return names.index(name)


def parse_list(incoming: Incoming) -> Question:
    """Raises Refusal."""
    names, has_more = read_query(ModelsQuery, incoming.query).page(incoming.models)
    first, last = (names[0], names[-1]) if names else (None, None)

    def answer(lexicon: Lexicon) -> Answer:
        models = [_model(name, lexicon) for name in names]
        return model_answer(ModelList("list", models, has_more, first, last))

    return Question(answer)


def parse_one(incoming: Incoming) -> Question:
    """Raises Refusal."""
    name = check_model(incoming.name, incoming.models)
    return Question(lambda lexicon: model_answer(_model(name, lexicon)))


def _model(name: str, lexicon: Lexicon) -> Model:
    context = lexicon.info.context
    return Model(name, "model", CREATED, OWNER, context, "model", name, CREATED_AT, "active", context, context)


LIST = Endpoint(
    path="/v1/models",
    parse=parse_list,
    summary="The names under which the model is served",
    method="GET",
    query=ModelsQuery,
    answer=ModelList,
    refusals={400: "The query is not valid."} | QUESTION_REFUSALS,
    error=OpenAIError,
)
ONE = Endpoint(
    path="/v1/models/{name:path}",
    parse=parse_one,
    summary="One name under which the model is served",
    method="GET",
    answer=Model,
    refusals={404: "No model is served under this name."} | QUESTION_REFUSALS,
    error=OpenAIError,
)

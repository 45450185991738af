"""The kept responses: `GET` and `DELETE /v1/responses/{id}`, their input, and why none can be cancelled."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from contract.answers import Answer, Wire, model_answer
from contract.endpoints import QUESTION_REFUSALS, Endpoint, Incoming, Question
from contract.openai.dialect import OpenAIError
from contract.openai.kept_responses import Item, KeptResponses
from contract.openai.responses_answer import ResponseObject
from contract.queries import read_query
from contract.refusals import Refusal
from contract.requests import shortened
from interface.engine import Lexicon

NO_STREAM = "expected false, as only what is made in the background can be streamed again, and nothing here is"
NOT_KEPT = {404: "No response of the client's with this id is kept."}
REFUSALS = NOT_KEPT | QUESTION_REFUSALS


def _refuse_stream(stream: bool) -> bool:
    if stream:
        raise ValueError(NO_STREAM)
    return stream


class RetrieveQuery(BaseModel):
    """How a response is shown. Other parameters, such as `include`, change nothing."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    stream: Annotated[bool, AfterValidator(_refuse_stream)] = Field(default=False, description="True is refused.")


class InputItemsQuery(BaseModel):
    """Which of a response's input items come, and in which order."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    limit: int = Field(default=20, ge=1, le=100, description="The most items of one answer.")
    order: Literal["asc", "desc"] = Field(default="desc", description="`desc` begins with the newest item.")
    after: str = Field(default="", description="The id of the item after which the answer begins, in this order.")


@dataclass(frozen=True, slots=True)
class DeletedResponse(Wire):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


@dataclass(frozen=True, slots=True)
class InputItems(Wire):
    """Items before those of a response: of earlier responses, if it followed one, and of its own request."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


def _question(incoming: Incoming, answer: Callable[[KeptResponses, str], Answer]) -> Question:
    """A question about the response that the path names."""

    def ask(_: Lexicon) -> Answer:
        return answer(KeptResponses(incoming.kept), incoming.name)

    return Question(ask)


def parse_retrieve(incoming: Incoming) -> Question:
    """Raises Refusal."""
    read_query(RetrieveQuery, incoming.query)
    return _question(incoming, lambda kept, id: Answer(200, kept.response(id)))


def parse_delete(incoming: Incoming) -> Question:
    def delete(kept: KeptResponses, id: str) -> Answer:
        kept.delete(id)
        return model_answer(DeletedResponse(id, "response", True))

    return _question(incoming, delete)


def parse_input_items(incoming: Incoming) -> Question:
    """Raises Refusal."""
    return _question(incoming, partial(_list_items, read_query(InputItemsQuery, incoming.query)))


def _list_items(query: InputItemsQuery, kept: KeptResponses, id: str) -> Answer:
    items: list[Item] = json.loads(kept.input(id))
    if query.order == "desc":
        items.reverse()
    start = _place(items, query.after) + 1 if query.after else 0
    page = items[start : start + query.limit]
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return model_answer(InputItems("list", page, first, last, has_more=start + len(page) < len(items)))


def _place(items: list[Item], id: str) -> int:
    """Raises Refusal: 400, there is no such item."""
    for place, item in enumerate(items):
        if item["id"] == id:
            return place
    message = f"after: Expected the id of one of the response's input items, got {str(shortened(id))!r}"
    raise Refusal(400, message, param="after")


def parse_cancel(incoming: Incoming) -> Question:
    def refuse_to_cancel(kept: KeptResponses, id: str) -> Answer:
        kept.response(id)
        raise Refusal(
            400,
            "Cannot cancel a synchronous response. This server makes none in the background; to end one that is being "
            "made, close its connection.",
        )

    return _question(incoming, refuse_to_cancel)


RETRIEVE = Endpoint(
    path="/v1/responses/{name}",
    parse=parse_retrieve,
    summary="A response that is kept",
    method="GET",
    query=RetrieveQuery,
    answer=ResponseObject,
    refusals={400: "It cannot be streamed."} | REFUSALS,
    error=OpenAIError,
)
DELETE = Endpoint(
    path="/v1/responses/{name}",
    parse=parse_delete,
    summary="Forget a response",
    method="DELETE",
    answer=DeletedResponse,
    refusals=REFUSALS,
    error=OpenAIError,
)
INPUT_ITEMS = Endpoint(
    path="/v1/responses/{name}/input_items",
    parse=parse_input_items,
    summary="What a response that is kept was made from",
    method="GET",
    query=InputItemsQuery,
    answer=InputItems,
    refusals={400: "The query is not valid."} | REFUSALS,
    error=OpenAIError,
)
CANCEL = Endpoint(
    path="/v1/responses/{name}/cancel",
    parse=parse_cancel,
    summary="Refused: no response is made in the background",
    refusals={400: "The response was not made in the background."} | REFUSALS,
    error=OpenAIError,
)

"""The kept responses: `GET` and `DELETE /v1/responses/{id}`, their input, and the end of those in the background.

One that is made in the background is kept from its beginning on. If its request asked for a stream, that is kept, too,
and `GET` with `stream=true` reads it, also while it grows.
"""

import json
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from contract.answers import Answer, Wire, model_answer
from contract.endpoints import QUESTION_REFUSALS, Endpoint, Incoming, Question
from contract.openai.background import RecallCall
from contract.openai.dialect import OpenAIError
from contract.openai.item_pages import ItemPage, PageQuery
from contract.openai.kept_responses import KeptResponses
from contract.openai.responses_answer import ResponseObject, ResponseStreamEvent
from contract.openai.running_responses import RunningResponses
from contract.queries import read_query
from contract.refusals import Refusal
from interface.engine import Lexicon
from interface.requests import MAX_INTEGER

NO_STREAM = "stream: Expected false; a stream is kept of a response in the background whose request had stream: true."
NOT_KEPT = {404: "No response of the client's with this id is kept."}
REFUSALS = NOT_KEPT | QUESTION_REFUSALS


class RetrieveQuery(BaseModel):
    """How a response is shown. Other parameters, such as `include`, change nothing."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    stream: bool = Field(default=False, description="Send the events of a response in the background.")
    starting_after: int | None = Field(
        default=None, ge=0, le=MAX_INTEGER, description="Send only the events after the one of this `sequence_number`."
    )


@dataclass(frozen=True, slots=True)
class DeletedResponse(Wire):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


@dataclass(frozen=True, slots=True)
class InputItems(ItemPage):
    """Items before those of a response: of earlier responses, if it followed one, and of its own request."""


def parse_retrieve(incoming: Incoming) -> Question | RecallCall:
    """Raises Refusal."""
    query = read_query(RetrieveQuery, incoming.query)
    running = RunningResponses(incoming.kept)
    if not query.stream:
        return Question(lambda _: Answer(200, running.response(incoming.name)))
    KeptResponses(incoming.kept).response(incoming.name)  # raises if there is none
    if running.piece(incoming.name, 0) is None:
        raise Refusal(400, NO_STREAM, param="stream")
    first = 0 if query.starting_after is None else query.starting_after + 1
    return RecallCall(incoming.kept, incoming.name, first)


def parse_delete(incoming: Incoming) -> Question:
    def delete(_: Lexicon) -> Answer:
        KeptResponses(incoming.kept).delete(incoming.name)
        return model_answer(DeletedResponse(incoming.name, "response", True))

    return Question(delete)


def parse_input_items(incoming: Incoming) -> Question:
    """Raises Refusal."""
    query = read_query(PageQuery, incoming.query)

    def list_items(_: Lexicon) -> Answer:
        items = json.loads(KeptResponses(incoming.kept).input(incoming.name))
        return model_answer(query.items_page(InputItems, items, "one of the response's input items"))

    return Question(list_items)


def parse_cancel(incoming: Incoming) -> Question:
    def cancel(_: Lexicon) -> Answer:
        if not json.loads(KeptResponses(incoming.kept).response(incoming.name))["background"]:
            message = "Cannot cancel a synchronous response. To end one that is being made, close its connection."
            raise Refusal(400, message)
        return Answer(200, RunningResponses(incoming.kept).cancel(incoming.name))

    return Question(cancel)


RETRIEVE = Endpoint(
    path="/v1/responses/{name}",
    parse=parse_retrieve,
    summary="A response that is kept",
    method="GET",
    query=RetrieveQuery,
    answer=ResponseObject,
    stream=get_args(ResponseStreamEvent),
    stream_description="With `stream=true`: the events of the response, as its own request has had them.",
    refusals={400: "Its stream is not kept."} | REFUSALS,
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
    query=PageQuery,
    answer=InputItems,
    refusals={400: "The query is not valid."} | REFUSALS,
    error=OpenAIError,
)
CANCEL = Endpoint(
    path="/v1/responses/{name}/cancel",
    parse=parse_cancel,
    summary="End a response in the background; one that has ended stays as it is",
    answer=ResponseObject,
    refusals={400: "The response was not asked for in the background."} | REFUSALS,
    error=OpenAIError,
)

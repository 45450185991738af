"""The kept responses: `GET` and `DELETE /v1/responses/{id}`, their input, and what cancelling them does.

A response that was asked for in the background is answered when it is whole, so none that is kept is still being made.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from contract.answers import Answer, Wire, model_answer
from contract.endpoints import QUESTION_REFUSALS, Endpoint, Incoming, Question
from contract.openai.dialect import OpenAIError
from contract.openai.item_pages import ItemPage, PageQuery
from contract.openai.kept_responses import KeptResponses
from contract.openai.responses_answer import ResponseObject
from contract.queries import read_query
from contract.refusals import Refusal
from interface.engine import Lexicon

NO_STREAM = "expected false, as no stream is kept here, also none of a response that was asked for in the background"
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


@dataclass(frozen=True, slots=True)
class DeletedResponse(Wire):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


@dataclass(frozen=True, slots=True)
class InputItems(ItemPage):
    """Items before those of a response: of earlier responses, if it followed one, and of its own request."""


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
    return _question(incoming, partial(_list_items, read_query(PageQuery, incoming.query)))


def _list_items(query: PageQuery, kept: KeptResponses, id: str) -> Answer:
    return model_answer(query.items_page(InputItems, json.loads(kept.input(id)), "one of the response's input items"))


def parse_cancel(incoming: Incoming) -> Question:
    def cancel(kept: KeptResponses, id: str) -> Answer:
        response = kept.response(id)
        if json.loads(response)["background"]:
            return Answer(200, response)  # as OpenAI's API does with one that has ended
        raise Refusal(400, "Cannot cancel a synchronous response. To end one that is being made, close its connection.")

    return _question(incoming, cancel)


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
    query=PageQuery,
    answer=InputItems,
    refusals={400: "The query is not valid."} | REFUSALS,
    error=OpenAIError,
)
CANCEL = Endpoint(
    path="/v1/responses/{name}/cancel",
    parse=parse_cancel,
    summary="A response that was asked for in the background, which has ended already",
    answer=ResponseObject,
    refusals={400: "The response was not asked for in the background."} | REFUSALS,
    error=OpenAIError,
)

"""`/v1/conversations`: conversations that are kept here, and their items."""

from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict, Field

from contract.answers import Answer, Wire, json_answer, model_answer
from contract.bodies import LenientBody, read_body
from contract.endpoints import BODY_REFUSALS, QUESTION_REFUSALS, Endpoint, Incoming, Question
from contract.openai.dialect import OpenAIError
from contract.openai.item_pages import ItemPage, PageQuery, ends
from contract.openai.items import Item
from contract.openai.kept_conversations import KeptConversations, with_ids
from contract.openai.metadata import ABOUT_METADATA, Metadata, MetadataBody
from contract.openai.references import References
from contract.openai.responses_request import as_messages
from contract.queries import read_query
from interface.engine import Lexicon

REFUSALS = {404: "No conversation of the client's with this id is kept, or it has no such item."} | QUESTION_REFUSALS
BODY = {400: "The body is not valid."} | BODY_REFUSALS


class ConversationBody(LenientBody):
    """A conversation to begin."""

    items: list[Item] = Field(default_factory=list, description="What has been said already.")
    metadata: Metadata = Field(default_factory=dict, description=ABOUT_METADATA)


class ItemsBody(LenientBody):
    """Items to add to a conversation."""

    items: list[Item] = Field(min_length=1, description="Messages, tool calls and their outputs.")


@dataclass(frozen=True, slots=True)
class ConversationObject(Wire):
    """A conversation, without its items."""

    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class ConversationItem(Wire):
    """An item; it has other fields, too, by its type."""

    __pydantic_config__ = ConfigDict(extra="allow")

    id: str
    type: str
    status: str


@dataclass(frozen=True, slots=True)
class ConversationItems(ItemPage):
    """A page of a conversation's items, or those that were added."""


@dataclass(frozen=True, slots=True)
class DeletedConversation(Wire):
    id: str
    object: Literal["conversation.deleted"]
    deleted: Literal[True]


def parse_create(incoming: Incoming) -> Question:
    """Raises Refusal."""
    body = read_body(ConversationBody, incoming.body)
    as_messages(body.items, "items")  # what no request could go on with is refused now
    kept = KeptConversations(incoming.kept)
    return Question(lambda _: json_answer(200, kept.create(body.metadata, body.items)))


def parse_retrieve(incoming: Incoming) -> Question:
    kept = KeptConversations(incoming.kept)
    return Question(lambda _: json_answer(200, kept.conversation(incoming.name)))


def parse_update(incoming: Incoming) -> Question:
    """Raises Refusal."""
    body = read_body(MetadataBody, incoming.body)
    kept = KeptConversations(incoming.kept)
    return Question(lambda _: json_answer(200, kept.update(incoming.name, body.metadata)))


def parse_delete(incoming: Incoming) -> Question:
    def delete(_: Lexicon) -> Answer:
        KeptConversations(incoming.kept).delete(incoming.name)
        return model_answer(DeletedConversation(incoming.name, "conversation.deleted", True))

    return Question(delete)


def parse_list(incoming: Incoming) -> Question:
    """Raises Refusal."""
    query = read_query(PageQuery, incoming.query)

    def list_items(_: Lexicon) -> Answer:
        items = KeptConversations(incoming.kept).items(incoming.name)
        return model_answer(query.items_page(ConversationItems, items, "one of the conversation's items"))

    return Question(list_items)


def parse_add(incoming: Incoming) -> Question:
    """Raises Refusal."""
    body = read_body(ItemsBody, incoming.body)
    as_messages(body.items, "items")

    def add(_: Lexicon) -> Answer:
        before = References(incoming.kept).kept_conversation(incoming.name)
        added = with_ids(body.items, before)
        KeptConversations(incoming.kept).add(incoming.name, added)
        return model_answer(ConversationItems("list", added, *ends([item["id"] for item in added]), has_more=False))

    return Question(add)


def parse_retrieve_item(incoming: Incoming) -> Question:
    kept = KeptConversations(incoming.kept)
    return Question(lambda _: json_answer(200, kept.item(incoming.name, incoming.item)))


def parse_delete_item(incoming: Incoming) -> Question:
    def delete(_: Lexicon) -> Answer:
        kept = KeptConversations(incoming.kept)
        kept.delete_item(incoming.name, incoming.item)
        return json_answer(200, kept.conversation(incoming.name))

    return Question(delete)


CREATE = Endpoint(
    path="/v1/conversations",
    parse=parse_create,
    summary="Begin a conversation that is kept here",
    request=ConversationBody,
    answer=ConversationObject,
    example={"items": [{"role": "user", "content": "What is 2 + 2?"}]},
    refusals=BODY | QUESTION_REFUSALS,
    error=OpenAIError,
)
RETRIEVE = Endpoint(
    path="/v1/conversations/{name}",
    parse=parse_retrieve,
    summary="A conversation, without its items",
    method="GET",
    answer=ConversationObject,
    refusals=REFUSALS,
    error=OpenAIError,
)
UPDATE = Endpoint(
    path="/v1/conversations/{name}",
    parse=parse_update,
    summary="Replace the metadata of a conversation",
    request=MetadataBody,
    answer=ConversationObject,
    example={"metadata": {"topic": "sums"}},
    refusals=BODY | REFUSALS,
    error=OpenAIError,
)
DELETE = Endpoint(
    path="/v1/conversations/{name}",
    parse=parse_delete,
    summary="Forget a conversation and its items",
    method="DELETE",
    answer=DeletedConversation,
    refusals=REFUSALS,
    error=OpenAIError,
)
LIST_ITEMS = Endpoint(
    path="/v1/conversations/{name}/items",
    parse=parse_list,
    summary="The items of a conversation",
    method="GET",
    query=PageQuery,
    answer=ConversationItems,
    refusals={400: "The query is not valid."} | REFUSALS,
    error=OpenAIError,
)
ADD_ITEMS = Endpoint(
    path="/v1/conversations/{name}/items",
    parse=parse_add,
    summary="Add items to a conversation",
    request=ItemsBody,
    answer=ConversationItems,
    example={"items": [{"role": "user", "content": "And 3 + 3?"}]},
    refusals=BODY | REFUSALS,
    error=OpenAIError,
)
RETRIEVE_ITEM = Endpoint(
    path="/v1/conversations/{name}/items/{item}",
    parse=parse_retrieve_item,
    summary="An item of a conversation",
    method="GET",
    answer=ConversationItem,
    refusals=REFUSALS,
    error=OpenAIError,
)
DELETE_ITEM = Endpoint(
    path="/v1/conversations/{name}/items/{item}",
    parse=parse_delete_item,
    summary="Forget an item of a conversation",
    method="DELETE",
    answer=ConversationObject,
    refusals=REFUSALS,
    error=OpenAIError,
)
ENDPOINTS = (CREATE, RETRIEVE, UPDATE, DELETE, LIST_ITEMS, ADD_ITEMS, RETRIEVE_ITEM, DELETE_ITEM)

"""The stored chat completions: `GET /v1/chat/completions`, and what is asked about one by its id."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from contract.answers import Answer, Wire, json_answer, model_answer
from contract.bodies import read_body
from contract.endpoints import BODY_REFUSALS, QUESTION_REFUSALS, Endpoint, Incoming, Question
from contract.openai.chat_answer import ChatCompletion
from contract.openai.dialect import OpenAIError
from contract.openai.item_pages import ItemPage, PageQuery, ends
from contract.openai.metadata import MetadataBody
from contract.openai.stored_chats import StoredChats
from contract.queries import read_query
from interface.engine import Lexicon

NOT_STORED = {404: "No chat completion of the client's with this id is stored."}
REFUSALS = NOT_STORED | QUESTION_REFUSALS
WRONG_QUERY = {400: "The query is not valid."}


class MessagesQuery(PageQuery):
    """Which of the messages come, and in which order."""

    order: Literal["asc", "desc"] = Field(default="asc", description="`asc` begins with the oldest.")


class ChatsQuery(MessagesQuery):
    """Which of the stored completions come, and in which order."""

    model: str = Field(default="", description="Only those that were made under this name of the model.")
    metadata: dict[str, str] = Field(
        default_factory=dict, description="Only those whose metadata has all of these, as `metadata[name]=value`."
    )


@dataclass(frozen=True, slots=True)
class StoredChatCompletion(ChatCompletion):
    """A completion with its metadata."""

    metadata: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ChatCompletionList(Wire):
    """A page of the stored completions."""

    object: Literal["list"]
    data: list[StoredChatCompletion]
    first_id: str | None
    last_id: str | None
    has_more: bool


@dataclass(frozen=True, slots=True)
class StoredMessages(ItemPage):
    """A page of the messages that a completion answers. Each has an id, and the parts that its content had."""


@dataclass(frozen=True, slots=True)
class DeletedChatCompletion(Wire):
    id: str
    object: Literal["chat.completion.deleted"]
    deleted: Literal[True]


def parse_list(incoming: Incoming) -> Question:
    """Raises Refusal."""
    query, stored = read_query(ChatsQuery, incoming.query), StoredChats(incoming.kept)
    return Question(lambda _: _list(query, stored))


def _list(query: ChatsQuery, stored: StoredChats) -> Answer:
    matching = [
        listed.id
        for listed in stored.all()
        if query.model in ("", listed.model) and query.metadata.items() <= listed.metadata.items()
    ]
    page, has_more = query.page_of(matching, "a stored chat completion")
    first, last = ends(page)
    data = [stored.completion(id) for id in page]
    return json_answer(200, {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more})


def parse_retrieve(incoming: Incoming) -> Question:
    return Question(lambda _: json_answer(200, StoredChats(incoming.kept).completion(incoming.name)))


def parse_update(incoming: Incoming) -> Question:
    """Raises Refusal."""
    body = read_body(MetadataBody, incoming.body)
    return Question(lambda _: json_answer(200, StoredChats(incoming.kept).update(incoming.name, body.metadata)))


def parse_delete(incoming: Incoming) -> Question:
    def delete(_: Lexicon) -> Answer:
        StoredChats(incoming.kept).delete(incoming.name)
        return model_answer(DeletedChatCompletion(incoming.name, "chat.completion.deleted", True))

    return Question(delete)


def parse_messages(incoming: Incoming) -> Question:
    """Raises Refusal."""
    query = read_query(MessagesQuery, incoming.query)

    def list_messages(_: Lexicon) -> Answer:
        messages = StoredChats(incoming.kept).messages(incoming.name)
        return model_answer(query.items_page(StoredMessages, messages, "one of the messages"))

    return Question(list_messages)


LIST = Endpoint(
    path="/v1/chat/completions",
    parse=parse_list,
    summary="The chat completions that are stored",
    method="GET",
    query=ChatsQuery,
    answer=ChatCompletionList,
    refusals=WRONG_QUERY | QUESTION_REFUSALS,
    error=OpenAIError,
)
RETRIEVE = Endpoint(
    path="/v1/chat/completions/{name}",
    parse=parse_retrieve,
    summary="A chat completion that is stored",
    method="GET",
    answer=StoredChatCompletion,
    refusals=REFUSALS,
    error=OpenAIError,
)
UPDATE = Endpoint(
    path="/v1/chat/completions/{name}",
    parse=parse_update,
    summary="Replace the metadata of a stored chat completion",
    request=MetadataBody,
    answer=StoredChatCompletion,
    example={"metadata": {"topic": "sums"}},
    refusals={400: "The body is not valid."} | BODY_REFUSALS | REFUSALS,
    error=OpenAIError,
)
DELETE = Endpoint(
    path="/v1/chat/completions/{name}",
    parse=parse_delete,
    summary="Forget a chat completion",
    method="DELETE",
    answer=DeletedChatCompletion,
    refusals=REFUSALS,
    error=OpenAIError,
)
MESSAGES = Endpoint(
    path="/v1/chat/completions/{name}/messages",
    parse=parse_messages,
    summary="The messages that a stored chat completion answers",
    method="GET",
    query=MessagesQuery,
    answer=StoredMessages,
    refusals=WRONG_QUERY | REFUSALS,
    error=OpenAIError,
)

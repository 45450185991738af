"""`POST /v1/responses/compact`: the model sums up a conversation, so that the next requests are shorter.

The answer has the user's messages and a compaction item with the summary (`contract.openai.compacted`).
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from contract.answers import Answer, model_answer
from contract.bodies import check_model, read_body
from contract.conversation import checked_prompt
from contract.endpoints import Accepted, Endpoint, Incoming, Writer
from contract.opaque import SUMMARY
from contract.openai.compacted import CompactedResponse, CompactionItem
from contract.openai.completions import REFUSALS
from contract.openai.dialect import OpenAIError
from contract.openai.items import Item, complete
from contract.openai.response_builder import usage_of
from contract.openai.responses import DIALECT
from contract.openai.responses_request import InputBody
from contract.refusals import Refusal
from contract.summaries import REQUEST, SUMMARY_TOKENS, summary_in
from interface.events import Event, Failed, Finished
from interface.requests import ChatPrompt, GenerationRequest, SamplingParams


class CompactBody(InputBody):
    """A conversation to sum up. Settings of an answer, such as tools, are ignored."""

    input: str | list[Item] = Field(default_factory=list, description="A text of the user's, or a list of items.")

    def summary_prompt(self, items: Sequence[Item]) -> ChatPrompt:
        """Raises Refusal."""
        messages = self.messages(items)
        if not items:
            raise Refusal(400, "input: Expected a conversation, or a previous_response_id.", param="input")
        conversation = [*messages, {"role": "user", "content": REQUEST}]
        prompt = ChatPrompt(conversation, template_arguments=self.template_arguments, leave_room=SUMMARY_TOKENS)
        return checked_prompt(prompt, param="input")


@dataclass(frozen=True, slots=True)
class CompactCall:
    """One sequence, answered as a summary. It is never streamed."""

    requests: Sequence[GenerationRequest]
    items: Sequence[Item]
    stream: bool = False

    def writer(self, accepted: Accepted) -> Writer:
        raise TypeError("a compaction is not streamed")

    def answer(self, accepted: Accepted, events: Sequence[Event]) -> Answer:
        last = events[-1]
        if isinstance(last, Failed):
            return DIALECT.failure(last)
        assert isinstance(last, Finished)
        if not (text := summary_in(events)):
            return DIALECT.failure(Failed("The model wrote no summary.", "engine_error"))
        summary = CompactionItem("compaction", f"cmp_{uuid.uuid4().hex}", SUMMARY + text)
        users = [complete(item) for item in self.items if item.get("role") == "user"]
        compacted = CompactedResponse(
            f"resp_{uuid.uuid4().hex}",
            "response.compaction",
            int(time.time()),
            [*users, summary],
            usage_of(last),
        )
        return model_answer(compacted)


def parse(incoming: Incoming) -> CompactCall:
    """Raises Refusal."""
    body = read_body(CompactBody, incoming.body)
    check_model(body.model, incoming.models)
    items = body.items(incoming.kept).all
    request = GenerationRequest(
        body.summary_prompt(items),
        SamplingParams(max_tokens=SUMMARY_TOKENS, temperature=0),  # the most faithful one
        parse_response=True,
        clamp_max_tokens=True,
    )
    return CompactCall([request], items)


ENDPOINT = Endpoint(
    path="/v1/responses/compact",
    parse=parse,
    summary="Sum up a conversation, so that the next requests are shorter",
    request=CompactBody,
    answer=CompactedResponse,
    example={"input": "What is 2 + 2?"},
    refusals=REFUSALS,
    error=OpenAIError,
)

"""What stands for a conversation that has been compacted: an item with a summary, which later requests send back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from contract.answers import Wire
from contract.opaque import SUMMARY, opened
from contract.openai.responses_answer import ResponseUsage
from contract.refusals import Refusal
from contract.summaries import INTRODUCTION


@dataclass(frozen=True, slots=True)
class CompactionItem(Wire):
    """A summary of a conversation, to be sent back as it is. It is not encrypted."""

    type: Literal["compaction"]
    id: str
    encrypted_content: str


@dataclass(frozen=True, slots=True)
class CompactedResponse(Wire):
    """A conversation that has been compacted: the user's messages as items, and a summary of all of it."""

    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[dict[str, Any] | CompactionItem]
    usage: ResponseUsage


def summary_of(item: Mapping[str, Any], where: str) -> str:
    """What the model is shown of a compaction item.

    Raises:
        Refusal: 400, another server has made it.
    """
    if (summary := opened(item.get("encrypted_content"), SUMMARY)) is not None:
        return INTRODUCTION + summary
    message = f"{where}: Expected a compaction item that this server has made; it cannot read those of others."
    raise Refusal(400, message, param=where)

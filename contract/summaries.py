"""How a model sums up a conversation, so that later requests are shorter: both APIs have a request for it.

A conversation that leaves no room for a summary in the context loses its oldest messages first.
"""

from collections.abc import Iterable

from interface.events import Event, TextPart, Token

SUMMARY_TOKENS = 2048
"""The most tokens of a summary."""
REQUEST = (
    "Sum up our conversation for someone who continues it without having read it: what I asked for, what has been done "
    "and found, which decisions were made, and what is still to do. Name files, commands and values exactly. Answer "
    "with the summary alone."
)
"""The last message that the model sees."""
INTRODUCTION = "Summary of the conversation so far:\n"
"""What stands before a summary in the conversation that goes on with it."""


def summary_in(events: Iterable[Event]) -> str:
    """The text of an answer, without its reasoning."""
    parts = [part for event in events if isinstance(event, Token) for part in event.as_parts()]
    return "".join(part.text for part in parts if isinstance(part, TextPart) and part.kind == "content").strip()

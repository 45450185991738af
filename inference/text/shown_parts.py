"""Tells whether a chat template shows the calls of tools and their results, or leaves them out without an error.

One conversation that has both tells it: its names are in the text, or they are not.
"""

from dataclasses import dataclass
from typing import Any

from inference.text.message_forms import RETURNING

FUNCTION, RESULT, CALL_ID = "probed_function", "probed_result", "probe0001"
QUESTION = {"role": "user", "content": "question"}
CALL = {"id": CALL_ID, "type": "function", "function": {"name": FUNCTION, "arguments": {"name": "value"}}}
CONVERSATION: tuple[dict[str, Any], ...] = (
    QUESTION,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": CALL_ID, "name": FUNCTION, "content": RESULT},
    {"role": "assistant", "content": "answer"},
    QUESTION,
)
TOOL = {
    "type": "function",
    "function": {
        "name": "tool",
        "description": "text",
        "parameters": {"type": "object", "properties": {"name": {"type": "string", "description": "text"}}},
    },
}
"""A tool that is offered, and not called: its name in the text tells nothing."""


@dataclass(frozen=True, slots=True)
class ShownParts:
    """What a template shows of a conversation with tools."""

    calls: bool = True
    results: bool = True

    @classmethod
    def of(cls, text: str) -> "ShownParts":
        """What the text shows that a template makes of `CONVERSATION`."""
        return cls(FUNCTION in text, RESULT in text)


def has_tool_turns(messages: Any) -> bool:
    """Whether a conversation has calls or results at all."""
    return any(message.get("tool_calls") or message.get("role") in RETURNING for message in messages)

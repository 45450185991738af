"""Contents of items and blocks that clients keep, and send back, without reading them.

OpenAI and Anthropic encrypt them. Here they are text, after a mark by which this server knows its own.
"""

from typing import Any

SUMMARY = "summary:"
"""The mark of a conversation's summary."""
REASONING = "reasoning:"
"""The mark of a reasoning, for clients that send back only what looks encrypted, or do not want to see it."""


def opened(content: Any, mark: str) -> str | None:
    """The text in a content with this mark; None if another server has made it."""
    return content.removeprefix(mark) if isinstance(content, str) and content.startswith(mark) else None

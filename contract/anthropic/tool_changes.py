"""Blocks that change the tools in the middle of a conversation.

A system message may add tools, defined there or declared before, and take others away; the summary of a conversation
repeats the changes that were made in it. A chat template shows one list of tools, so the model is offered those that
are there at the end. Changes of tools that run on Anthropic's servers are left out, as these tools are.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from contract.anthropic.tools import Tool, callable_only
from contract.bodies import read_part
from contract.refusals import Refusal

Block = Mapping[str, Any]


class OfferedTools:
    """The tools at some place of a conversation, as chat templates expect them."""

    def __init__(self, tools: Sequence[Tool | None]) -> None:
        """Raises Refusal: a tool has no schema."""
        placed = ((f"tools.{number}", tool) for number, tool in enumerate(tools))
        self._known = {tool.name: tool.as_function(place) for place, tool in placed if tool is not None}
        self._removed: set[str] = set()

    def functions(self) -> list[dict[str, Any]]:
        return [function for name, function in self._known.items() if name not in self._removed]

    def take(self, blocks: Sequence[Block], where: str) -> None:
        """Make the changes of a message; `where` is the place of its blocks in the body. Raises Refusal."""
        for place, change in _changes(blocks, where):
            match change:
                case {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": dict(definition)}}:
                    self._define(definition, f"{place}.tool.definition")
                case {"type": "tool_addition", "tool": {"type": "tool_reference", "name": str(name)}}:
                    self._removed.discard(name)
                case {"type": "tool_removal", "tool": {"type": "tool_reference", "name": str(name)}}:
                    self._removed.add(name)
                case {"type": "tool_addition" | "tool_removal", "tool": {"type": str()}}:
                    pass
                case other if not isinstance(other, Mapping) or other.get("type") in ("tool_addition", "tool_removal"):
                    raise Refusal(400, f"{place}: Expected a change of a tool, got none.", param=place)

    def _define(self, definition: dict[str, Any], where: str) -> None:
        if (callable := callable_only(definition)) is not None:
            tool = read_part(Tool, callable, where)
            self._known[tool.name] = tool.as_function(where)
            self._removed.discard(tool.name)


def _changes(blocks: Sequence[Block], where: str) -> Iterator[tuple[str, Block]]:
    """The changes in a message's blocks, each with its place."""
    for number, block in enumerate(blocks):
        match block:
            case {"type": "compaction", "tool_changes": list(changes)}:
                for index, change in enumerate(changes):
                    yield f"{where}.{number}.tool_changes.{index}", change
            case _:
                yield f"{where}.{number}", block

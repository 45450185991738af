"""How the families of models write tool calls, in one table: what the parser looks for and the grammar demands.

A `ToolForm` is the shape of a call as text. Between the pieces stand the function's name and its arguments, as JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolForm:
    """The text around a call's name and arguments, and around and between several calls."""

    before_name: str
    before_arguments: str
    after_arguments: str
    separator: str
    begin: str = ""
    end: str = ""
    quotes_name: bool = True

    def before(self, name: str) -> str:
        """The text of one call up to its arguments."""
        return (
            self.before_name
            + (json.dumps(name, ensure_ascii=False) if self.quotes_name else name)
            + self.before_arguments
        )

    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        """One call, as a model of the family would write it."""
        call = self.before(name) + json.dumps(arguments, ensure_ascii=False) + self.after_arguments
        return self.begin + call + self.end


HERMES = ToolForm(
    before_name='<tool_call>\n{"name": ',
    before_arguments=', "arguments": ',
    after_arguments="}\n</tool_call>",
    separator="\n",
)
LLAMA3 = ToolForm(before_name='{"name": ', before_arguments=', "parameters": ', after_arguments="}", separator="; ")
MISTRAL_LIST = ToolForm(
    begin="[TOOL_CALLS][",
    before_name='{"name": ',
    before_arguments=', "arguments": ',
    after_arguments="}",
    separator=", ",
    end="]",
)
MISTRAL_NAMED = ToolForm(
    before_name="[TOOL_CALLS]", before_arguments="[ARGS]", after_arguments="", separator="", quotes_name=False
)

"""Describes tools in a system message, for a model whose chat template knows none.

A model that follows instructions may call them; a small one that was not trained for it answers in text. Agents and
some chats offer tools in every request, and could not be used with such a model at all.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from inference.text.tool_forms import ToolForm

INTRODUCTION = "You may call these functions, each described by its name and the JSON schema of its parameters:"
HOW_TO_CALL = "If a call helps to answer, write nothing but the call, in this form:"


def described_tools(tools: Sequence[Mapping[str, Any]], form: ToolForm) -> str:
    """The text of a system message: what the tools are, and the form in which the answer may call one."""
    functions = [json.dumps(tool["function"], ensure_ascii=False) for tool in tools]
    example = form.write("function_name", {"parameter": "value"})
    return "\n".join([INTRODUCTION, *functions, "", HOW_TO_CALL, example])

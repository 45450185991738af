"""The items of a conversation, as responses and conversations list them."""

import uuid
from collections.abc import Mapping
from typing import Any

Item = dict[str, Any]

ID_PREFIXES: Mapping[str, str] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "function_call_output": "fco",
    "custom_tool_call_output": "ctco",
    "shell_call": "sh",
    "shell_call_output": "sho",
    "local_shell_call": "lsh",
    "local_shell_call_output": "lsho",
    "apply_patch_call": "apc",
    "apply_patch_call_output": "apco",
    "compaction": "cmp",
}
"""What the ids of an input's items begin with, by their type."""


def complete(item: Item) -> Item:
    """Return an item as it is listed: with an id, a type and a status, and a message with a list of parts."""
    present = {name: value for name, value in item.items() if value is not None}
    type = present.get("type", "message")
    whole = {"type": type, "status": "completed", **present}
    if not isinstance(whole.get("id"), str):
        whole["id"] = f"{ID_PREFIXES.get(type, 'item')}_{uuid.uuid4().hex}"
    if type == "message":
        parts = [whole["content"]] if isinstance(whole["content"], str) else whole["content"]
        kind = _output_text if whole.get("role") == "assistant" else _input_text
        whole["content"] = [kind(part) if isinstance(part, str) else part for part in parts]
    return whole


def _input_text(text: str) -> Item:
    return {"type": "input_text", "text": text}


def _output_text(text: str) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

"""How to find the parts of answers that are a series of messages, each with a header: harmony's, and Solar Open's."""

from typing import Any

Spec = dict[str, Any]
"""A part of a response template, in the terms of transformers' `response_template`."""

HARMONY_BEGINS = r"(?:<\|start\|>assistant)?"
"""What begins each message of a harmony answer but the first, whose beginning is in the prompt."""
HARMONY_ENDS = r"<\|end\|>|<\|return\|>|<\|call\|>|(?=<\|start\|>|<\|channel\|>)"
HARMONY_CALLED = r" ?to=functions\.(?P<name>[\w.-]{1,100})"
HARMONY_FIELDS: Spec = {
    "text": {"content": "text"},  # a message without a header
    "reasoning_content": {
        "open_pattern": HARMONY_BEGINS + r"<\|channel\|>analysis<\|message\|>",
        "close_pattern": HARMONY_ENDS,
        "content": "text",
    },
    "content": {
        "open_pattern": HARMONY_BEGINS
        + r"<\|channel\|>(?:final|commentary)(?: ?<\|constrain\|>\w{0,16})?<\|message\|>",
        "close_pattern": HARMONY_ENDS,
        "content": "text",
    },
}
HARMONY_CALLS: Spec = {
    "open_pattern": HARMONY_BEGINS
    + rf"(?:{HARMONY_CALLED}<\|channel\|>\w{{1,16}}|<\|channel\|>\w{{1,16}}{HARMONY_CALLED})"
    + r"(?: ?\w{1,16}| ?<\|constrain\|>\w{1,16})?<\|message\|>",
    "close_pattern": HARMONY_ENDS,
    "repeats": True,
    "content": "json",
    "transform": {"name": "{name}", "arguments": "{content}"},
}
SOLAR_BEGINS = r"(?:<\|begin\|>assistant)?"
SOLAR_FIELDS: Spec = {
    "text": {"content": "text"},  # a message without a header
    "reasoning_content": {
        "open_pattern": SOLAR_BEGINS + r"<\|think\|>",
        "close_pattern": r"<\|end\|>|(?=<\|begin\|>)",
        "content": "text",
    },
    "content": {
        "open_pattern": SOLAR_BEGINS + r"<\|content\|>",
        "close_pattern": r"<\|end\|>|<\|flush\|>|(?=<\|begin\|>)",
        "content": "text",
    },
}
SOLAR_CALLS: Spec = {
    "open_pattern": rf"(?:{SOLAR_BEGINS}<\|tool_calls\|>)?<\|tool_call:begin\|>[\w-]{{0,64}}"
    r"<\|tool_call:name\|>(?P<name>[\w.-]{1,100})<\|tool_call:args\|>",
    "close_pattern": r"<\|tool_call:end\|>",
    "repeats": True,
    "content": "json",
    "transform": {"name": "{name}", "arguments": "{content}"},
}

"""How the families of models write tool calls and reasoning, in one table.

A `ToolForm` is the shape of a call as text; grammars demand it. A family's response template says how to find calls
and reasoning in an answer, in the terms of transformers' `response_template`; it is used where a tokenizer brings none.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolForm:
    """The text around a call's name and its arguments, which are JSON, and around and between several calls.

    `trigger` is what `begin` and `before_name` together start with: where it appears, a call begins.
    """

    trigger: str
    before_name: str
    before_arguments: str
    after_arguments: str
    separator: str
    begin: str = ""
    end: str = ""
    quotes_name: bool = True
    is_harmony: bool = False
    """Whether an answer is a series of messages, each with a header, the last of which may be a call."""

    def before(self, name: str) -> str:
        """The text of one call up to its arguments."""
        quoted = json.dumps(name, ensure_ascii=False) if self.quotes_name else name
        return self.before_name + quoted + self.before_arguments

    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        """One call, as a model of the family would write it."""
        call = self.before(name) + json.dumps(arguments, ensure_ascii=False) + self.after_arguments
        return self.begin + call + self.end


HERMES = ToolForm(
    trigger="<tool_call>",
    before_name='<tool_call>\n{"name": ',
    before_arguments=', "arguments": ',
    after_arguments="}\n</tool_call>",
    separator="\n",
)
LLAMA3 = ToolForm(
    trigger='{"name": ',
    before_name='{"name": ',
    before_arguments=', "parameters": ',
    after_arguments="}",
    separator="; ",
)
MISTRAL_LIST = ToolForm(
    trigger="[TOOL_CALLS]",
    begin="[TOOL_CALLS][",
    before_name='{"name": ',
    before_arguments=', "arguments": ',
    after_arguments="}",
    separator=", ",
    end="]",
)
MISTRAL_NAMED = ToolForm(
    trigger="[TOOL_CALLS]",
    before_name="[TOOL_CALLS]",
    before_arguments="[ARGS]",
    after_arguments="",
    separator="",
    quotes_name=False,
)
HARMONY = ToolForm(
    trigger="<|channel|>commentary to=functions.",
    before_name="<|channel|>commentary to=functions.",
    before_arguments=" <|constrain|>json<|message|>",
    after_arguments="",
    separator="<|call|><|start|>assistant",
    quotes_name=False,
    is_harmony=True,
)
HARMONY_FINAL = "<|channel|>final<|message|>"
"""The header of the message that is the answer."""
HARMONY_REASONING = ("<|channel|>analysis<|message|>", "<|end|>")
FORMS = (HERMES, LLAMA3, MISTRAL_LIST, MISTRAL_NAMED, HARMONY)

# --- Response templates -----------------------------------------------------------------------------------------------

Spec = dict[str, Any]

CALLS_FIELD = "tool_calls"
END_FIELD = "end"
"""What follows the last call, and is no text."""

ANSWER_BEGINS = "|".join(
    [
        r"<\|im_start\|>assistant\n",
        r"<\|start_header_id\|>assistant<\|end_header_id\|>\n\n",
        r"\[/INST\]",
        r"\[/TOOL_RESULTS\]",
        r"<｜Assistant｜>",
        r"<\|assistant\|>",
        r"<\|start\|>assistant",
        r"<\|im_assistant\|>assistant<\|im_middle\|>",
        r"<seed:bos>assistant\n",
        r"\]~b\]ai\n",
    ]
)
# White space is bounded in the patterns: a search for any amount of it takes the square of what a model writes.
THINK: Spec = {"open_pattern": r"\s{0,8}<think>", "close": "</think>", "content": "text"}
THINK_BY_TAG: Mapping[str, Spec] = {
    "[THINK]": {"open": "[THINK]", "close": "[/THINK]", "content": "text"},
    "<seed:think>": {"open": "<seed:think>", "close": "</seed:think>", "content": "text"},
}
"""How models think that do not use <think>, by the tag in their chat templates."""
HERMES_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<tool_call>",
    "close": "</tool_call>",
    "repeats": True,
    "content": "json",
}
XML_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<tool_call>\s{0,8}<function=(?P<name>[^>\n]+)>",
    "close_pattern": r"</function>\s{0,8}</tool_call>",
    "repeats": True,
    "content": "xml-inline",
    "content_args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>"},
    "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
}
SEED_CALLS: Spec = {
    **XML_CALLS,
    "open_pattern": r"\s{0,8}<seed:tool_call>\s{0,8}<function=(?P<name>[^>\n]+)>",
    "close_pattern": r"</function>\s{0,8}</seed:tool_call>",
}
GLM_CALLS: Spec = {
    **XML_CALLS,
    "open_pattern": r"\s{0,8}<tool_call>(?P<name>[\w.-]+)\s{0,8}(?=<arg_key>|</tool_call>|\Z)",
    "close_pattern": r"</tool_call>",
    "content_args": {"tag_pattern": r"<arg_key>(?P<key>[^<\n]+)</arg_key>\s{0,8}<arg_value>(?P<value>.*?)</arg_value>"},
}
INVOKED_CALLS: Spec = {  # MiniMax M2, DeepSeek V3.2
    **XML_CALLS,
    "open_pattern": r"(?:\s{0,8}<(?:minimax:tool_call|｜DSML｜\w{1,16})>)?"
    r'\s{0,8}<(?:｜DSML｜)?invoke name="(?P<name>[^"\n]+)">',
    "close_pattern": r"</(?:｜DSML｜)?invoke>",
    "content_args": {
        "tag_pattern": r'parameter name="(?P<key>[^"\n]+)"[^>\n]*>\n?(?P<value>.*?)\n?</(?:｜DSML｜)?parameter>'
    },
}
DEEPSEEK_CALLS: Spec = {
    "open_pattern": r"(?:\s{0,8}<｜tool▁calls▁begin｜>)?\s{0,8}<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?"
    r"(?P<name>[\w.-]+)(?:<｜tool▁sep｜>|\n```json\n)",
    "close_pattern": r"(?:\n```)?<｜tool▁call▁end｜>",
    "repeats": True,
    "content": "json",
    "transform": {"name": "{name}", "arguments": "{content}"},
}
KIMI_CALLS: Spec = {
    **DEEPSEEK_CALLS,
    "open_pattern": r"(?:\s{0,8}<\|tool_calls_section_begin\|>)?\s{0,8}<\|tool_call_begin\|>\s{0,8}"
    r"(?:functions\.)?(?P<name>[\w.-]+)(?::\d{1,4})?\s{0,8}<\|tool_call_argument_begin\|>",
    "close_pattern": r"<\|tool_call_end\|>",
}
LISTED_CALLS: Spec = {  # Nemotron, Apriel, Phi-4-mini
    "open_pattern": r"\s{0,8}(?:<TOOLCALL>|<tool_calls>|<\|tool_call\|>)(?=\s{0,8}\[)",
    "close_pattern": r"</TOOLCALL>|</tool_calls>|<\|/tool_call\|>",
    "content": "json",
}
LLAMA3_CALLS: Spec = {
    "open_pattern": r'(?:<\|python_tag\|>)?\s{0,8}(?=\{\s{0,8}"(?:name|type)")',
    "close_pattern": r"<\|eom_id\|>|<\|eot_id\|>|;\s{0,8}(?=\{)",
    "repeats": True,
    "content": "json",
}
MISTRAL_LIST_CALLS: Spec = {"open": "[TOOL_CALLS]", "close": "</s>", "content": "json"}
MISTRAL_NAMED_CALLS: Spec = {
    "open_pattern": r"\[TOOL_CALLS\](?P<name>[\w.-]+)(?:\[CALL_ID\]\w+)?\[ARGS\]",
    "close_pattern": r"(?=\[TOOL_CALLS\])|</s>",
    "repeats": True,
    "content": "json",
    "transform": {"name": "{name}", "arguments": "{content}"},
}
HARMONY_BEGINS = r"(?:<\|start\|>assistant)?"
"""What begins each message of a harmony answer but the first, whose beginning is in the prompt."""
HARMONY_ENDS = r"<\|end\|>|<\|return\|>|<\|call\|>|(?=<\|start\|>|<\|channel\|>)"
HARMONY_CALLED = r" ?to=functions\.(?P<name>[\w.-]+)"
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


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models: how to know it by its chat template, and how it writes calls."""

    is_family: Callable[[str], bool]
    calls: Spec
    form: ToolForm | None
    """None where a grammar cannot easily demand the form."""
    has_bare_calls: bool = False
    """Whether a call is plain JSON without a mark, so that only the tool's name tells it from an answer in JSON."""
    fields: Spec | None = None
    """How to find text and reasoning, where that is not as usual."""
    end: str | None = None
    """A pattern of what follows the last call."""


HERMES_FAMILY = Family(lambda text: "<tool_call>" in text, HERMES_CALLS, HERMES)
FAMILIES = (
    Family(lambda text: "<|channel|>" in text, HARMONY_CALLS, HARMONY, fields=HARMONY_FIELDS),
    Family(lambda text: "<｜tool▁call▁begin｜>" in text, DEEPSEEK_CALLS, None, end="<｜tool▁calls▁end｜>"),
    Family(lambda text: "<|tool_call_begin|>" in text, KIMI_CALLS, None, end=r"<\|tool_calls_section_end\|>"),
    Family(lambda text: "<arg_key>" in text and "<tool_call>" in text, GLM_CALLS, None),
    Family(lambda text: "<seed:tool_call>" in text, SEED_CALLS, None),
    Family(lambda text: "<minimax:tool_call>" in text, INVOKED_CALLS, None, end="</minimax:tool_call>"),
    Family(lambda text: "｜DSML｜" in text, INVOKED_CALLS, None, end=r"</｜DSML｜\w{1,16}>"),
    Family(lambda text: "[TOOL_CALLS]" in text and "[ARGS]" in text, MISTRAL_NAMED_CALLS, MISTRAL_NAMED),
    Family(lambda text: "[TOOL_CALLS]" in text, MISTRAL_LIST_CALLS, MISTRAL_LIST),
    Family(lambda text: re.search(r"<TOOLCALL>|</tool_calls>|<\|/tool_call\|>", text) is not None, LISTED_CALLS, None),
    Family(lambda text: "<tool_call>" in text and "<function=" in text, XML_CALLS, None),
    HERMES_FAMILY,
    Family(lambda text: "<|start_header_id|>" in text and "tools" in text, LLAMA3_CALLS, LLAMA3, has_bare_calls=True),
)


def thinking(template: str) -> Spec | None:
    """How a model thinks, by its chat template; None if it does not."""
    for tag, spec in THINK_BY_TAG.items():
        if tag in template:
            return spec
    return THINK if "think>" in template or "reasoning_content" in template else None


def response_template(family: Family | None, think: Spec | None) -> Spec:
    """The response template of a family's models."""
    fields: Spec = {"content": {"content": "text"}} | ({"reasoning_content": think} if think else {})
    if family is not None:
        fields = (family.fields or fields) | {CALLS_FIELD: family.calls}
        if family.end is not None:
            fields[END_FIELD] = {
                "open_pattern": rf"\s{{0,8}}{family.end}",
                "close_pattern": r"(?=.)",
                "content": "text",
            }
    return {"start_anchor_pattern": ANSWER_BEGINS, "fields": fields}

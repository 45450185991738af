"""The families of models: how each writes tool calls and reasoning, in one table.

A family's response template says how to find calls and reasoning in an answer, in the terms of transformers'
`response_template`; it is used where a tokenizer brings none.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from inference.text import tool_forms as forms
from inference.text.call_notations import (
    Read,
    ReadTyped,
    function_gemma_calls,
    gemma_calls,
    json_lines,
    named_objects,
    python_calls,
)
from inference.text.call_region import JSON_QUOTES, PYTHON_QUOTES, Quotes
from inference.text.element_answers import (
    KIMI_K3_CALLS,
    KIMI_K3_ENDS,
    KIMI_K3_FIELDS,
    MINIMAX_M3_CALLS,
    MINIMAX_M3_ENDS,
    MINIMAX_M3_FIELDS,
    kimi_k3_calls,
    minimax_m3_calls,
)
from inference.text.message_answers import HARMONY_CALLS, HARMONY_FIELDS, SOLAR_CALLS, SOLAR_FIELDS, Spec
from inference.text.tool_forms import ToolForm

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
        r"<beginning_of_sentence>ai name=assistant\n",
        r"<\|turn>model\n",
        r"<start_of_turn>model\n",
        r"<\|CHATBOT_TOKEN\|>",
        r"<\|start_of_role\|>assistant[^|]*<\|end_of_role\|>",
        r"<\|header_start\|>assistant<\|header_end\|>\n\n",
        r"<\|assistant_start\|>",
        r"assistant<\|role_sep\|>\n",
        r"<\|begin\|>assistant",
        r"<｜hy_Assistant:opensource｜>",
        r'<\|open\|>message role="assistant"<\|sep\|>',
    ]
)
# White space and names are bounded in the patterns: a search for any amount of them takes the square of what a model
# writes.
THINK: Spec = {"open_pattern": r"\s{0,8}<think>", "close": "</think>", "content": "text"}
THINK_BY_TAG: Mapping[str, Spec] = {
    "[THINK]": {"open": "[THINK]", "close": "[/THINK]", "content": "text"},
    "<seed:think>": {"open": "<seed:think>", "close": "</seed:think>", "content": "text"},
    "<|START_THINKING|>": {"open": "<|START_THINKING|>", "close": "<|END_THINKING|>", "content": "text"},
    "<|channel>thought": {
        "open": ["<|channel>thought\n", "<|channel>thought"],
        "close": "<channel|>",
        "content": "text",
    },
    "<think{}>": {"open": "<think:opensource>", "close": "</think:opensource>", "content": "text"},
    "[BEGIN FINAL": {"open": "Here are my reasoning steps:\n", "close": "[BEGIN FINAL RESPONSE]", "content": "text"},
    "<|inner_prefix|>": {"open": "<|inner_prefix|>", "close": "<|inner_suffix|>", "content": "text"},
}
"""How models think that do not use <think>, by the tag in their chat templates."""
HERMES_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<tool_call>",
    "close": "</tool_call>",
    "repeats": True,
    "content": "json",
}
XML_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<tool_call>\s{0,8}<function=(?P<name>[^>\n]{1,100})>",
    "close_pattern": r"</function>\s{0,8}</tool_call>",
    "repeats": True,
    "content": "xml-inline",
    "content_args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]{1,200})>\n?(?P<value>.*?)\n?</parameter>"},
    "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
}
SEED_CALLS: Spec = {
    **XML_CALLS,
    "open_pattern": r"\s{0,8}<seed:tool_call>\s{0,8}<function=(?P<name>[^>\n]{1,100})>",
    "close_pattern": r"</function>\s{0,8}</seed:tool_call>",
}
GLM_CALLS: Spec = {
    **XML_CALLS,
    "open_pattern": r"\s{0,8}<tool_call>(?P<name>[\w.-]{1,100})\s{0,8}(?=<arg_key>|</tool_call>|\Z)",
    "close_pattern": r"</tool_call>",
    "content_args": {
        "tag_pattern": r"<arg_key>(?P<key>[^<\n]{1,200})</arg_key>\s{0,8}<arg_value>(?P<value>.*?)</arg_value>"
    },
}
HY3_CALLS: Spec = {
    **XML_CALLS,
    "open_pattern": r"(?:\s{0,8}<tool_calls:opensource>)?\s{0,8}<tool_call:opensource>\s{0,8}"
    r"(?P<name>[\w.-]{1,100})\s{0,8}<tool_sep:opensource>",
    "close_pattern": r"</tool_call:opensource>",
    "content_args": {
        "tag_pattern": r"<arg_key:opensource>(?P<key>[^<\n]{1,200})</arg_key:opensource>\s{0,8}"
        r"<arg_value:opensource>(?P<value>.*?)</arg_value:opensource>"
    },
}
INVOKED_CALLS: Spec = {  # MiniMax M2, DeepSeek V3.2
    **XML_CALLS,
    "open_pattern": r"(?:\s{0,8}<(?:minimax:tool_call|｜DSML｜\w{1,16})>)?"
    r'\s{0,8}<(?:｜DSML｜)?invoke name="(?P<name>[^"\n]{1,100})">',
    "close_pattern": r"</(?:｜DSML｜)?invoke>",
    "content_args": {
        "tag_pattern": r'parameter name="(?P<key>[^"\n]{1,200})"[^>\n]{0,100}>'
        r"(?P<value>.*?)</(?:｜DSML｜)?parameter>"
    },
}
DEEPSEEK_CALLS: Spec = {
    "open_pattern": r"(?:\s{0,8}<｜tool▁calls▁begin｜>)?\s{0,8}<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?"
    r"(?P<name>[\w.-]{1,100})(?:<｜tool▁sep｜>|\n```json\n)",
    "close_pattern": r"(?:\n```)?<｜tool▁call▁end｜>",
    "repeats": True,
    "content": "json",
    "transform": {"name": "{name}", "arguments": "{content}"},
}
KIMI_CALLS: Spec = {
    **DEEPSEEK_CALLS,
    "open_pattern": r"(?:\s{0,8}<\|tool_calls_section_begin\|>)?\s{0,8}<\|tool_call_begin\|>\s{0,8}"
    r"(?:functions\.)?(?P<name>[\w.-]{1,100})(?::\d{1,4})?\s{0,8}<\|tool_call_argument_begin\|>",
    "close_pattern": r"<\|tool_call_end\|>",
}
LISTED_CALLS: Spec = {  # Nemotron, Apriel, Hunyuan, Jamba, Phi-4-mini, Granite 3
    "open_pattern": r"\s{0,8}(?:<TOOLCALL>|<tool_calls>|<\|tool_call\|>)(?=\s{0,8}\[)",
    "close_pattern": r"</TOOLCALL>|</tool_calls>|<\|/tool_call\|>",
    "content": "json",
}
LLAMA3_CALLS: Spec = {
    "open_pattern": r'(?:<\|python_tag\|>|<\|python_start\|>)?\s{0,8}(?=\{\s{0,8}"(?:name|type)")',
    "close_pattern": r"<\|eom_id\|>|<\|eot_id\|>|<\|eom\|>|<\|eot\|>|;\s{0,8}(?=\{)",
    "repeats": True,
    "content": "json",
}
MISTRAL_LIST_CALLS: Spec = {"open": "[TOOL_CALLS]", "close": "</s>", "content": "json"}
MISTRAL_NAMED_CALLS: Spec = {
    "open_pattern": r"\[TOOL_CALLS\](?P<name>[\w.-]{1,100})(?:\[CALL_ID\]\w{1,40})?\[ARGS\]",
    "close_pattern": r"(?=\[TOOL_CALLS\])|</s>",
    "repeats": True,
    "content": "json",
    "transform": {"name": "{name}", "arguments": "{content}"},
}
COHERE_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<\|START_ACTION\|>(?=\s{0,8}\[)",
    "close_pattern": r"<\|END_ACTION\|>",
    "content": "json",
}
ACTION_CALLS: Spec = {  # Command R and R+ of 2024
    "open_pattern": r"\s{0,8}Action:\s{0,8}```(?:json)?\s{0,8}(?=\[)",
    "close_pattern": r"```",
    "content": "json",
}
XLAM_CALLS: Spec = {
    "open_pattern": r'\s{0,8}(?=\[\s{0,8}\{\s{0,8}"name")',
    "close_pattern": r"<\|eot_id\|>|<\|im_end\|>",
    "content": "json",
}
INTERNLM_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<\|action_start\|>\s{0,8}<\|plugin\|>",
    "close_pattern": r"<\|action_end\|>",
    "repeats": True,
    "content": "json",
}
APERTUS_CALLS: Spec = {"open": "<|tools_prefix|>", "close": "<|tools_suffix|>", "content": "text"}
MINIMAX_M1_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<tool_calls>(?=\s{0,8}\{)",
    "close": "</tool_calls>",
    "content": "text",
}
LONGCAT_CALLS: Spec = {
    **HERMES_CALLS,
    "open_pattern": r"\s{0,8}<longcat_tool_call>",
    "close": "</longcat_tool_call>",
}
GIGACHAT_CALLS: Spec = {
    "open_pattern": r"(?:<\|message_sep\|>\s{0,4})?(?:function call<\|role_sep\|>\s?|<\|function_call\|>)(?=\{)",
    "close_pattern": r"(?=<\|message_sep\|>)",
    "repeats": True,
    "content": "json",
}
FUNCTIONARY_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<function=(?P<name>[\w.-]{1,100})>(?=\s{0,8}\{)",
    "close": "</function>",
    "repeats": True,
    "content": "json",
    "transform": {"name": "{name}", "arguments": "{content}"},
}
MINICPM_CALLS: Spec = {
    **XML_CALLS,
    "open_pattern": r'\s{0,8}<function name="(?P<name>[^"\n]{1,100})">',
    "close_pattern": r"</function>",
    "content_args": {
        "tag_pattern": r'<param name="(?P<key>[^"\n]{1,200})">(?:<!\[CDATA\[)?(?P<value>.*?)(?:\]\]>)?</param>'
    },
}
LFM2_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<\|tool_call_start\|>",
    "close_pattern": r"<\|tool_call_end\|>",
    "repeats": True,
    "content": "text",
}
OLMO_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<function_calls>",
    "close_pattern": r"</function_calls>",
    "repeats": True,
    "content": "text",
}
GEMMA_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<\|tool_call>(?=call:)",
    "close_pattern": r"<tool_call\|>",
    "repeats": True,
    "content": "text",
}
FUNCTION_GEMMA_CALLS: Spec = {
    "open_pattern": r"\s{0,8}<start_function_call>(?=call:)",
    "close_pattern": r"<end_function_call>",
    "repeats": True,
    "content": "text",
}


GEMMA_QUOTES = (*PYTHON_QUOTES, Quotes('<|"|>', '<|"|>'))
FUNCTION_GEMMA_QUOTES = (*PYTHON_QUOTES, Quotes("<escape>", "<escape>"))
PROMPTED_CALLS: Spec = {  # functionary 3.2, whose prompts end with the first >>>
    "open_pattern": r">>>(?P<name>(?!all\n)[\w.-]{1,100})\n(?=\s{0,8}\{)",
    "close_pattern": r"(?=>>>)|<\|eot_id\|>",
    "repeats": True,
    "content": "json",
    "transform": {"name": "{name}", "arguments": "{content}"},
}
PROMPTED_FIELDS: Spec = {
    "text": {"content": "text"},
    "content": {"open": ">>>all\n", "close_pattern": r"(?=>>>)|<\|eot_id\|>", "content": "text"},
}


def _answer_between(opening: str, closing: str, think: Spec, calls: str = r"(?!)") -> Spec:
    """The fields of an answer whose text may stand between two tags, from which calls may break out."""
    return {
        "text": {"content": "text"},
        "reasoning_content": think,
        "content": {
            "open_pattern": rf"\s{{0,8}}(?:{opening})\s{{0,8}}",
            "close_pattern": rf"\s{{0,8}}(?:{closing})\s{{0,8}}|(?=\s{{0,8}}{calls})",
            "content": "text",
        },
    }


COHERE_FIELDS = _answer_between(
    r"<\|START_RESPONSE\|>|<\|START_TEXT\|>", r"<\|END_RESPONSE\|>|<\|END_TEXT\|>", THINK_BY_TAG["<|START_THINKING|>"]
)
HUNYUAN_FIELDS = _answer_between("<answer>", "</answer>", THINK, calls="<tool_calls>")
APRIEL_FIELDS: Spec = {
    "text": {"content": "text"},
    "reasoning_content": THINK_BY_TAG["[BEGIN FINAL"],
    "content": {  # the tag before it ends the reasoning, if there is any
        "open_pattern": r"\s{0,8}\[(?:BEGIN|END) FINAL RESPONSE\]\s{0,8}",
        "close_pattern": r"(?=\s{0,8}(?:<tool_calls>|\[END FINAL RESPONSE\]))",
        "content": "text",
    },
}
ERNIE_FIELDS = _answer_between("<response>", "</response>", THINK, calls="<tool_call>")


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models: how to know it by its chat template, and how it writes calls."""

    is_family: Callable[[str], bool]
    calls: Spec
    form: ToolForm | None
    """None where a grammar cannot demand the form."""
    has_bare_calls: bool = False
    """Whether a call is plain JSON without a mark, so that only the tool's name tells it from an answer in JSON."""
    fields: Spec | None = None
    """How to find text and reasoning, where that is not as usual."""
    end: str | None = None
    """A pattern of what follows the last call."""
    read: Read | None = None
    """What reads the text of calls, where that is neither JSON nor tags."""
    read_typed: ReadTyped | None = None
    """The same, where only the tools tell the types of values."""
    quotes: Sequence[Quotes] = ()
    """What stands around texts in the calls that `read` reads."""


def _has(*patterns: str) -> Callable[[str], bool]:
    """Whether a chat template has all of these in it."""
    compiled = [re.compile(pattern) for pattern in patterns]
    return lambda text: all(pattern.search(text) for pattern in compiled)


_DEEPSEEK_ENDS = "<｜tool▁calls▁end｜>"
_DSML_ENDS = r"</｜DSML｜\w{1,16}>"
HERMES_FAMILY = Family(_has("<tool_call>"), HERMES_CALLS, forms.HERMES)
FAMILIES = (
    Family(
        _has(r"\]<\]minimax\[>\["),
        MINIMAX_M3_CALLS,
        None,
        fields=MINIMAX_M3_FIELDS,
        end=MINIMAX_M3_ENDS,
        read_typed=minimax_m3_calls,
    ),
    Family(_has(r"<\|open\|>"), KIMI_K3_CALLS, None, fields=KIMI_K3_FIELDS, end=KIMI_K3_ENDS, read=kimi_k3_calls),
    Family(_has(r"<\|channel\|>"), HARMONY_CALLS, forms.HARMONY, fields=HARMONY_FIELDS),
    Family(_has("<｜tool▁call▁begin｜>", "```json"), DEEPSEEK_CALLS, forms.DEEPSEEK_V3, end=_DEEPSEEK_ENDS),
    Family(_has("<｜tool▁call▁begin｜>"), DEEPSEEK_CALLS, forms.DEEPSEEK_V31, end=_DEEPSEEK_ENDS),
    Family(_has(r"<\|tool_call_begin\|>"), KIMI_CALLS, forms.KIMI, end=r"<\|tool_calls_section_end\|>"),
    Family(_has(r"</arg_key>(?:\\n|\n<arg_value>)", "<tool_call>"), GLM_CALLS, forms.GLM),
    Family(_has("<arg_key>", "<tool_call>"), GLM_CALLS, forms.GLM_ON_ONE_LINE),
    Family(_has("<seed:tool_call>"), SEED_CALLS, forms.SEED),
    Family(_has("<minimax:tool_call>"), INVOKED_CALLS, forms.MINIMAX, end="</minimax:tool_call>"),
    Family(_has("｜DSML｜", "function_calls"), INVOKED_CALLS, forms.DEEPSEEK_V32, end=_DSML_ENDS),
    Family(_has("｜DSML｜"), INVOKED_CALLS, forms.DEEPSEEK_V4, end=_DSML_ENDS),
    Family(_has(r"\[TOOL_CALLS\]", r"\[ARGS\]"), MISTRAL_NAMED_CALLS, forms.MISTRAL_NAMED),
    Family(_has(r"\[TOOL_CALLS\]"), MISTRAL_LIST_CALLS, forms.MISTRAL_LIST),
    Family(_has(r"<\|START_ACTION\|>", r"<\|START_TEXT\|>"), COHERE_CALLS, forms.COHERE_TEXT, fields=COHERE_FIELDS),
    Family(_has(r"<\|START_ACTION\|>"), COHERE_CALLS, forms.COHERE, fields=COHERE_FIELDS),
    Family(_has("Action:", "directly-answer"), ACTION_CALLS, forms.COMMAND_R, has_bare_calls=True),
    Family(_has("<tool_sep", ":opensource"), HY3_CALLS, forms.HY3, end="</tool_calls:opensource>"),
    Family(_has(r"<\|tool_call:begin\|>"), SOLAR_CALLS, None, fields=SOLAR_FIELDS, end=r"<\|calls\|>"),
    Family(_has(r"<\|tool_call>"), GEMMA_CALLS, forms.GEMMA, read=gemma_calls, quotes=GEMMA_QUOTES),
    Family(
        _has("<start_function_call>"),
        FUNCTION_GEMMA_CALLS,
        forms.FUNCTION_GEMMA,
        read=function_gemma_calls,
        quotes=FUNCTION_GEMMA_QUOTES,
    ),
    Family(
        _has(r"<\|tool_(?:call|list)_start\|>|List of tools: \["),
        LFM2_CALLS,
        forms.LFM2,
        read=python_calls,
        quotes=PYTHON_QUOTES,
    ),
    Family(_has("<function_calls>"), OLMO_CALLS, forms.OLMO, read=python_calls, quotes=PYTHON_QUOTES),
    Family(_has(r"<\|tools_prefix\|>"), APERTUS_CALLS, forms.APERTUS, read=named_objects, quotes=JSON_QUOTES),
    Family(_has(r"<\|plugin\|>"), INTERNLM_CALLS, forms.INTERNLM),
    Family(_has("<longcat_tool_call>"), LONGCAT_CALLS, forms.LONGCAT),
    Family(_has(r"<\|function_call\|>"), GIGACHAT_CALLS, forms.GIGACHAT),
    Family(_has("function call", r"<\|role_sep\|>"), GIGACHAT_CALLS, forms.GIGACHAT_3),
    Family(_has(r'<function name="', '<param name="'), MINICPM_CALLS, forms.MINICPM),
    Family(_has("calls in a single JSON array"), XLAM_CALLS, forms.XLAM, has_bare_calls=True),
    Family(_has(r"<tool_calls>(?:\\n|\n)\{"), MINIMAX_M1_CALLS, forms.MINIMAX_M1, read=json_lines, quotes=JSON_QUOTES),
    Family(_has(r"\[BEGIN FINAL"), LISTED_CALLS, forms.APRIEL, fields=APRIEL_FIELDS),
    Family(_has("<tool_calls>", "<answer>"), LISTED_CALLS, forms.APRIEL, fields=HUNYUAN_FIELDS, end="</answer>"),
    Family(_has("<TOOLCALL>"), LISTED_CALLS, forms.NEMOTRON),
    Family(_has("</tool_calls>"), LISTED_CALLS, forms.APRIEL),
    Family(_has(r"<\|/tool_call\|>"), LISTED_CALLS, forms.PHI),
    Family(_has(r"<\|tool_call\|>"), LISTED_CALLS, forms.GRANITE),
    Family(_has("<tool_call>", "<function="), XML_CALLS, forms.QWEN_CODER),
    Family(_has("<tool_call>", "<response>"), HERMES_CALLS, forms.HERMES, fields=ERNIE_FIELDS, end="</response>"),
    HERMES_FAMILY,
    Family(_has(r">>>\$\{recipient\}"), PROMPTED_CALLS, None, fields=PROMPTED_FIELDS),
    Family(_has("<function="), FUNCTIONARY_CALLS, forms.FUNCTIONARY),
    Family(_has(r"<\|(?:start_header_id|header_start)\|>", "tools"), LLAMA3_CALLS, forms.LLAMA3, has_bare_calls=True),
)
FORMS = tuple(family.form for family in (HERMES_FAMILY, *reversed(FAMILIES)) if family.form is not None)
"""The forms that are tried on a tokenizer's own response template."""


def family_of(template: str) -> Family | None:
    """The family that a chat template belongs to, if it is known."""
    return next((family for family in FAMILIES if family.is_family(template)), None)


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

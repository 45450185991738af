"""The families of models: how each writes tool calls and reasoning, in one table.

A family's response template says how to find calls and reasoning in an answer, in the terms of transformers'
`response_template`; it is used where a tokenizer brings none.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inference.text import answer_specs as specs
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
"""What follows the last call, and is not text."""
GEMMA_QUOTES = (*PYTHON_QUOTES, Quotes('<|"|>', '<|"|>'))
FUNCTION_GEMMA_QUOTES = (*PYTHON_QUOTES, Quotes("<escape>", "<escape>"))


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
HERMES_FAMILY = Family(_has("<tool_call>"), specs.HERMES_CALLS, forms.HERMES)
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
    Family(_has("<｜tool▁call▁begin｜>", "```json"), specs.DEEPSEEK_CALLS, forms.DEEPSEEK_V3, end=_DEEPSEEK_ENDS),
    Family(_has("<｜tool▁call▁begin｜>"), specs.DEEPSEEK_CALLS, forms.DEEPSEEK_V31, end=_DEEPSEEK_ENDS),
    Family(_has(r"<\|tool_call_begin\|>"), specs.KIMI_CALLS, forms.KIMI, end=r"<\|tool_calls_section_end\|>"),
    Family(_has(r"</arg_key>(?:\\n|\n<arg_value>)", "<tool_call>"), specs.GLM_CALLS, forms.GLM),
    Family(_has("<arg_key>", "<tool_call>"), specs.GLM_CALLS, forms.GLM_ON_ONE_LINE),
    Family(_has("<seed:tool_call>"), specs.SEED_CALLS, forms.SEED),
    Family(_has("<minimax:tool_call>"), specs.INVOKED_CALLS, forms.MINIMAX, end="</minimax:tool_call>"),
    Family(_has("｜DSML｜", "function_calls"), specs.INVOKED_CALLS, forms.DEEPSEEK_V32, end=_DSML_ENDS),
    Family(_has("｜DSML｜"), specs.INVOKED_CALLS, forms.DEEPSEEK_V4, end=_DSML_ENDS),
    Family(_has(r"\[TOOL_CALLS\]", r"\[ARGS\]"), specs.MISTRAL_NAMED_CALLS, forms.MISTRAL_NAMED),
    Family(_has(r"\[TOOL_CALLS\]"), specs.MISTRAL_LIST_CALLS, forms.MISTRAL_LIST),
    Family(
        _has(r"<\|START_ACTION\|>", r"<\|START_TEXT\|>"),
        specs.COHERE_CALLS,
        forms.COHERE_TEXT,
        fields=specs.COHERE_FIELDS,
    ),
    Family(_has(r"<\|START_ACTION\|>"), specs.COHERE_CALLS, forms.COHERE, fields=specs.COHERE_FIELDS),
    Family(_has("Action:", "directly-answer"), specs.ACTION_CALLS, forms.COMMAND_R, has_bare_calls=True),
    Family(_has("<tool_sep", ":opensource"), specs.HY3_CALLS, forms.HY3, end="</tool_calls:opensource>"),
    Family(_has(r"<\|tool_call:begin\|>"), SOLAR_CALLS, None, fields=SOLAR_FIELDS, end=r"<\|calls\|>"),
    Family(_has(r"<\|tool_call>"), specs.GEMMA_CALLS, forms.GEMMA, read=gemma_calls, quotes=GEMMA_QUOTES),
    Family(
        _has("<start_function_call>"),
        specs.FUNCTION_GEMMA_CALLS,
        forms.FUNCTION_GEMMA,
        read=function_gemma_calls,
        quotes=FUNCTION_GEMMA_QUOTES,
    ),
    Family(
        _has(r"<\|tool_(?:call|list)_start\|>|List of tools: \["),
        specs.LFM2_CALLS,
        forms.LFM2,
        read=python_calls,
        quotes=PYTHON_QUOTES,
    ),
    Family(_has("<function_calls>"), specs.OLMO_CALLS, forms.OLMO, read=python_calls, quotes=PYTHON_QUOTES),
    Family(_has(r"<\|tools_prefix\|>"), specs.APERTUS_CALLS, forms.APERTUS, read=named_objects, quotes=JSON_QUOTES),
    Family(_has(r"<\|plugin\|>"), specs.INTERNLM_CALLS, forms.INTERNLM),
    Family(_has("<longcat_tool_call>"), specs.LONGCAT_CALLS, forms.LONGCAT),
    Family(_has(r"<\|function_call\|>"), specs.GIGACHAT_CALLS, forms.GIGACHAT),
    Family(_has("function call", r"<\|role_sep\|>"), specs.GIGACHAT_CALLS, forms.GIGACHAT_3),
    Family(_has(r'<function name="', '<param name="'), specs.MINICPM_CALLS, forms.MINICPM),
    Family(_has("calls in a single JSON array"), specs.XLAM_CALLS, forms.XLAM, has_bare_calls=True),
    Family(
        _has(r"<tool_calls>(?:\\n|\n)\{"), specs.MINIMAX_M1_CALLS, forms.MINIMAX_M1, read=json_lines, quotes=JSON_QUOTES
    ),
    Family(_has(r"\[BEGIN FINAL"), specs.LISTED_CALLS, forms.APRIEL, fields=specs.APRIEL_FIELDS),
    Family(
        _has("<tool_calls>", "<answer>"), specs.LISTED_CALLS, forms.APRIEL, fields=specs.HUNYUAN_FIELDS, end="</answer>"
    ),
    Family(_has("<TOOLCALL>"), specs.LISTED_CALLS, forms.NEMOTRON),
    Family(_has("</tool_calls>"), specs.LISTED_CALLS, forms.APRIEL),
    Family(_has(r"<\|/tool_call\|>"), specs.LISTED_CALLS, forms.PHI),
    Family(_has(r"<\|tool_call\|>"), specs.LISTED_CALLS, forms.GRANITE),
    Family(_has("<tool_call>", "<function="), specs.XML_CALLS, forms.QWEN_CODER),
    Family(
        _has("<tool_call>", "<response>"),
        specs.HERMES_CALLS,
        forms.HERMES,
        fields=specs.ERNIE_FIELDS,
        end="</response>",
    ),
    HERMES_FAMILY,
    Family(_has(r">>>\$\{recipient\}"), specs.PROMPTED_CALLS, None, fields=specs.PROMPTED_FIELDS),
    Family(_has("<function="), specs.FUNCTIONARY_CALLS, forms.FUNCTIONARY),
    Family(
        _has(r"<\|(?:start_header_id|header_start)\|>", "tools"), specs.LLAMA3_CALLS, forms.LLAMA3, has_bare_calls=True
    ),
)
FORMS = tuple(family.form for family in (HERMES_FAMILY, *reversed(FAMILIES)) if family.form is not None)
"""The forms that are tried on a tokenizer's own response template."""


def family_of(template: str) -> Family | None:
    """The family that a chat template belongs to, if it is known."""
    return next((family for family in FAMILIES if family.is_family(template)), None)


def thinking(template: str) -> Spec | None:
    """How a model thinks, by its chat template; None if it does not."""
    for tag, spec in specs.THINK_BY_TAG.items():
        if tag in template:
            return spec
    return specs.THINK if "think>" in template or "reasoning_content" in template else None


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
    return {"start_anchor_pattern": specs.ANSWER_BEGINS, "fields": fields}

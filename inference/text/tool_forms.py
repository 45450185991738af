"""The shapes in which models write tool calls, as text: grammars demand them, and examples are written in them.

Most families write a call's arguments as JSON. The others write each parameter by itself, between tags or in the
manner of a programming language; a `ParameterForm` says how.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

NUMBER = "{number}"
"""Stands in a form for a call's number, which the model chooses."""
NUMBER_PATTERN = "[0-9]{1,4}"


@dataclass(frozen=True, slots=True)
class ParameterForm:
    """The text around the name and the value of one parameter. A value that is not text is JSON."""

    before_name: str
    before_value: str
    after_value: str
    separator: str = ""
    before_text: str | None = None
    """What comes before a value that is a text, where that differs."""
    after_text: str | None = None
    """What comes after it."""
    never_in_text: tuple[str, ...] = ()
    """What would end a text, or the call, too early. Without any, texts are JSON too."""

    @property
    def quotes_texts(self) -> bool:
        """Whether texts are JSON, as all other values."""
        return not self.never_in_text

    @property
    def around_text(self) -> tuple[str, str]:
        """What comes before and after a value that is a text."""
        before = self.before_value if self.before_text is None else self.before_text
        return before, self.after_value if self.after_text is None else self.after_text

    def write(self, name: str, value: Any) -> str:
        """One parameter, as a model of the family would write it."""
        if self.quotes_texts or not isinstance(value, str):
            return self.before_name + name + self.before_value + _json(value) + self.after_value
        before, after = self.around_text
        return self.before_name + name + before + value + after


@dataclass(frozen=True, slots=True)
class ToolForm:
    """The text around a call's name and its arguments, and around and between several calls.

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
    parameters: ParameterForm | None = None
    """How each parameter is written; None where the arguments are JSON."""
    around_content: tuple[str, str] | None = None
    """What may stand around an answer's text."""
    is_harmony: bool = False
    """Whether an answer is a series of messages, each with a header, the last of which may be a call."""

    def before(self, name: str) -> str:
        """The text of one call up to its arguments."""
        return self.before_name + (_json(name) if self.quotes_name else name) + self.before_arguments

    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        """One call, as a model of the family would write it."""
        return self.write_all([(name, arguments)])

    def write_all(self, calls: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
        """Several calls, as a model of the family would write them."""
        bodies = [self.before(name) + self._arguments(arguments) + self.after_arguments for name, arguments in calls]
        numbered = [body.replace(NUMBER, str(number)) for number, body in enumerate(bodies)]
        return self.begin + self.separator.join(numbered) + self.end

    def _arguments(self, arguments: Mapping[str, Any]) -> str:
        form = self.parameters
        if form is None:
            return _json(arguments)
        return form.separator.join(form.write(name, value) for name, value in arguments.items())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


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
DEEPSEEK_V3 = ToolForm(
    trigger="<｜tool▁calls▁begin｜>",
    begin="<｜tool▁calls▁begin｜>",
    before_name="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    before_arguments="\n```json\n",
    after_arguments="\n```<｜tool▁call▁end｜>",
    separator="\n",
    end="<｜tool▁calls▁end｜>",
    quotes_name=False,
)
DEEPSEEK_V31 = replace(
    DEEPSEEK_V3,
    before_name="<｜tool▁call▁begin｜>",
    before_arguments="<｜tool▁sep｜>",
    after_arguments="<｜tool▁call▁end｜>",
    separator="",
)
KIMI = ToolForm(
    trigger="<|tool_calls_section_begin|>",
    begin="<|tool_calls_section_begin|>",
    before_name="<|tool_call_begin|>functions.",
    before_arguments=f":{NUMBER}<|tool_call_argument_begin|>",
    after_arguments="<|tool_call_end|>",
    separator="",
    end="<|tool_calls_section_end|>",
    quotes_name=False,
)


def _listed(begin: str, end: str) -> ToolForm:
    """Calls as objects in a list of JSON."""
    return ToolForm(
        trigger=begin,
        begin=begin + "[",
        before_name='{"name": ',
        before_arguments=', "arguments": ',
        after_arguments="}",
        separator=", ",
        end="]" + end,
    )


NEMOTRON = _listed("<TOOLCALL>", "</TOOLCALL>")
APRIEL = _listed("<tool_calls>", "</tool_calls>")
PHI = _listed("<|tool_call|>", "<|/tool_call|>")


def _tagged(name: str) -> ToolForm:
    """Calls in which each parameter stands between two tags."""
    return ToolForm(
        trigger=f"<{name}>",
        before_name=f"<{name}>\n<function=",
        before_arguments=">\n",
        after_arguments=f"</function>\n</{name}>",
        separator="\n",
        quotes_name=False,
        parameters=ParameterForm(
            "<parameter=", ">\n", "\n</parameter>\n", never_in_text=("</parameter>", "</function>")
        ),
    )


QWEN_CODER = _tagged("tool_call")
SEED = _tagged("seed:tool_call")


def _glm(line_break: str) -> ToolForm:
    """Calls of GLM, up to 4.6 on several lines, from 4.7 on in one."""
    return ToolForm(
        trigger="<tool_call>",
        before_name="<tool_call>",
        before_arguments=line_break,
        after_arguments="</tool_call>",
        separator=line_break,
        quotes_name=False,
        parameters=ParameterForm(
            "<arg_key>",
            f"</arg_key>{line_break}<arg_value>",
            f"</arg_value>{line_break}",
            never_in_text=("</arg_value>", "</tool_call>"),
        ),
    )


GLM = _glm("\n")
GLM_ON_ONE_LINE = _glm("")
HY3 = ToolForm(
    trigger="<tool_calls:opensource>",
    begin="<tool_calls:opensource>\n",
    before_name="<tool_call:opensource>",
    before_arguments="<tool_sep:opensource>\n",
    after_arguments="</tool_call:opensource>\n",
    separator="",
    end="</tool_calls:opensource>",
    quotes_name=False,
    parameters=ParameterForm(
        "<arg_key:opensource>",
        "</arg_key:opensource>\n<arg_value:opensource>",
        "</arg_value:opensource>\n",
        never_in_text=("</arg_value:opensource>", "</tool_call:opensource>"),
    ),
)
MINIMAX = ToolForm(
    trigger="<minimax:tool_call>",
    begin="<minimax:tool_call>\n",
    before_name='<invoke name="',
    before_arguments='">\n',
    after_arguments="</invoke>\n",
    separator="",
    end="</minimax:tool_call>",
    quotes_name=False,
    parameters=ParameterForm('<parameter name="', '">', "</parameter>\n", never_in_text=("</parameter>", "</invoke>")),
)


def _dsml(name: str) -> ToolForm:
    """Calls in the markup of DeepSeek V3.2 and V4."""
    return ToolForm(
        trigger=f"<｜DSML｜{name}>",
        begin=f"<｜DSML｜{name}>\n",
        before_name='<｜DSML｜invoke name="',
        before_arguments='">\n',
        after_arguments="</｜DSML｜invoke>\n",
        separator="",
        end=f"</｜DSML｜{name}>",
        quotes_name=False,
        parameters=ParameterForm(
            '<｜DSML｜parameter name="',
            '" string="false">',
            "</｜DSML｜parameter>\n",
            before_text='" string="true">',
            never_in_text=("</｜DSML｜parameter>", "</｜DSML｜invoke>"),
        ),
    )


DEEPSEEK_V32 = _dsml("function_calls")
DEEPSEEK_V4 = _dsml("tool_calls")
COHERE = ToolForm(
    trigger="<|START_ACTION|>",
    begin="<|START_ACTION|>[\n    ",
    before_name=f'{{"tool_call_id": "{NUMBER}", "tool_name": ',
    before_arguments=', "parameters": ',
    after_arguments="}",
    separator=",\n    ",
    end="\n]<|END_ACTION|>",
    around_content=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
)
COHERE_TEXT = replace(COHERE, around_content=("<|START_TEXT|>", "<|END_TEXT|>"))
COMMAND_R = ToolForm(
    trigger="Action:\n```json",
    begin="Action:\n```json\n[\n",
    before_name='    {\n        "tool_name": ',
    before_arguments=',\n        "parameters": ',
    after_arguments="\n    }",
    separator=",\n",
    end="\n]```",
)
GRANITE = _listed("<|tool_call|>", "")
XLAM = replace(_listed("[", ""), trigger='[{"name": ', begin="[")
INTERNLM = ToolForm(
    trigger="<|action_start|><|plugin|>",
    before_name='<|action_start|><|plugin|>\n{"name": ',
    before_arguments=', "parameters": ',
    after_arguments="}<|action_end|>",
    separator="\n",
)
APERTUS = ToolForm(
    trigger="<|tools_prefix|>",
    begin="<|tools_prefix|>[",
    before_name="{",
    before_arguments=": ",
    after_arguments="}",
    separator=", ",
    end="]<|tools_suffix|>",
)
MINIMAX_M1 = ToolForm(
    trigger="<tool_calls>",
    begin="<tool_calls>\n",
    before_name='{"name": ',
    before_arguments=', "arguments": ',
    after_arguments="}",
    separator="\n",
    end="\n</tool_calls>",
)
LONGCAT = replace(
    HERMES,
    trigger="<longcat_tool_call>",
    before_name='<longcat_tool_call>\n{"name": ',
    after_arguments="}\n</longcat_tool_call>",
)
GIGACHAT = ToolForm(
    trigger="<|function_call|>",
    before_name='<|function_call|>{"name": ',
    before_arguments=', "arguments": ',
    after_arguments="}",
    separator="<|message_sep|>\n\n",
)
GIGACHAT_3 = replace(
    GIGACHAT,
    trigger="<|message_sep|>\n\nfunction call",
    before_name='<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": ',
    separator="",
)
FUNCTIONARY = ToolForm(
    trigger="<function=",
    before_name="<function=",
    before_arguments=">",
    after_arguments="</function>",
    separator="",
    quotes_name=False,
)
MINICPM = ToolForm(
    trigger='<function name="',
    before_name='<function name="',
    before_arguments='">',
    after_arguments="</function>",
    separator="\n",
    quotes_name=False,
    parameters=ParameterForm('<param name="', '">', "</param>", never_in_text=("</param>", "</function>")),
)
LFM2 = ToolForm(
    trigger="<|tool_call_start|>",
    begin="<|tool_call_start|>[",
    before_name="",
    before_arguments="(",
    after_arguments=")",
    separator=", ",
    end="]<|tool_call_end|>",
    quotes_name=False,
    parameters=ParameterForm("", "=", "", separator=", "),
)
OLMO = replace(
    LFM2,
    trigger="<function_calls>",
    begin="<function_calls>\n",
    separator="\n",
    end="\n</function_calls>",
)


def _gemma(begin: str, end: str, quote: str) -> ToolForm:
    """Calls of Gemma, which puts a mark around texts."""
    return ToolForm(
        trigger=begin,
        before_name=f"{begin}call:",
        before_arguments="{",
        after_arguments="}" + end,
        separator="",
        quotes_name=False,
        parameters=ParameterForm(
            "", ":", "", separator=",", before_text=":" + quote, after_text=quote, never_in_text=(quote,)
        ),
    )


GEMMA = _gemma("<|tool_call>", "<tool_call|>", '<|"|>')
FUNCTION_GEMMA = _gemma("<start_function_call>", "<end_function_call>", "<escape>")

"""Answers of every family's form, and the parsers that read them."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

from inference.text.response_format import ResponseFormat
from inference.text.response_parser import Parser
from inference.text.tool_forms import HARMONY, HERMES, LLAMA3, MISTRAL_LIST, MISTRAL_NAMED, ToolForm
from interface.events import Part, TextPart
from tests.support.chat_tokenizers import chat_tokenizer, tool

TOOLS = [tool("add", a={"type": "integer"}), tool("say", text={"type": "string"})]
FORMS = {
    "hermes": HERMES,
    "qwen": HERMES,
    "llama3": LLAMA3,
    "mistral_list": MISTRAL_LIST,
    "mistral_named": MISTRAL_NAMED,
    "harmony": HARMONY,
}
ANSWER_BEGINS = {
    "hermes": "<|im_start|>assistant\n",
    "qwen": "<|im_start|>assistant\n",
    "llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral_list": "[INST]Hello[/INST]",
    "mistral_named": "[INST]Hello[/INST]",
    "harmony": "<|start|>user<|message|>Hello<|end|><|start|>assistant",
}


def response_format(family: str) -> ResponseFormat:
    found = ResponseFormat.of(chat_tokenizer(family))
    assert found is not None
    return found


def parser_of(family: str, prompt: str | None = None, **settings: Any) -> Parser:
    answer_format = response_format(family)
    begun = answer_format.begun(ANSWER_BEGINS[family] if prompt is None else prompt)
    return answer_format.parser(begun, **{"tools": TOOLS, **settings})


def joined(parts: Sequence[Part]) -> list[Part]:
    """The parts of a stream as the parts of a whole answer."""
    whole: list[Part] = []
    for part in parts:
        last = whole[-1] if whole else None
        if isinstance(part, TextPart) and isinstance(last, TextPart) and part.kind == last.kind:
            whole[-1] = TextPart(part.kind, last.text + part.text)
        else:
            whole.append(part)
    return whole


def cut(text: str, borders: Sequence[int]) -> list[str]:
    places = [0, *sorted(border % (len(text) + 1) for border in borders), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(places)]


def several(form: ToolForm, *calls: tuple[str, dict[str, Any]]) -> str:
    bodies = [form.before(name) + json.dumps(arguments) + form.after_arguments for name, arguments in calls]
    return form.begin + form.separator.join(bodies) + form.end

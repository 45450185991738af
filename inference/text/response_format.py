"""The format of one model's answers: how content, reasoning and calls are told apart in them.

It is that of the tokenizer's own response template, or of the family that the chat template belongs to.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_parsing.response_templates import load_response_template

from inference.text.call_reader import CallReader
from inference.text.call_values import CallValues
from inference.text.families import (
    CALLS_FIELD,
    END_FIELD,
    FORMS,
    HERMES_FAMILY,
    Family,
    family_of,
    response_template,
    thinking,
)
from inference.text.message_answers import Spec
from inference.text.response_parser import REASONING_FIELDS, Calls, Parser
from inference.text.tool_forms import HARMONY_REASONING, ToolForm
from interface.events import ToolCallPart

Tools = Sequence[Mapping[str, Any]]


class ResponseFormat:
    """The format of one model's answers. Any thread may make a parser."""

    def __init__(self, spec: Spec, family: Family | None = None) -> None:
        self._template = load_response_template(spec)
        self._family = family
        form = None if family is None else family.form
        written = "" if form is None else form.write("f", {"a": "b"})
        self._markers = json.dumps(spec, ensure_ascii=False).replace("\\", "") + written
        self.form = form or next(filter(self._reads, FORMS), None)
        """The form of calls that a grammar can enforce; None if the model's form is not one of those known."""
        self.is_harmony = self.form is not None and self.form.is_harmony
        self.reasoning = HARMONY_REASONING if self.is_harmony else self._reasoning()
        """The texts that open and close reasoning, if the model's answers have any."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, otherwise: Family | None = None) -> "ResponseFormat | None":
        """The format of a model's answers: its tokenizer's own, or that of its family; None if they are plain text.

        `otherwise` is the family of a model whose own is not known.
        """
        spec = getattr(tokenizer, "response_template", None)
        if spec is not None:
            return cls(spec)
        templates = tokenizer.chat_template or ""
        text = templates if isinstance(templates, str) else "\n".join(templates.values())
        family, think = family_of(text) or otherwise, thinking(text)
        return None if family is None and think is None else cls.of_family(family, think)

    @classmethod
    def of_family(cls, family: Family | None, think: Spec | None) -> "ResponseFormat":
        """The format of a family's answers, or of one that only thinks."""
        return cls(response_template(family, think), family)

    @classmethod
    def hermes(cls) -> "ResponseFormat":
        """The format of forced tool calls, for a model that has none of its own."""
        return cls.of_family(HERMES_FAMILY, think=None)

    def keeps(self, token: str) -> bool:
        """Whether a special token's text is needed to find the parts."""
        return token in self._markers

    def begun(self, prompt_text: str) -> str:
        """Return the beginning of the answer that the chat template has put into the prompt: usually nothing.

        Where it is not known how the template begins an answer, that is the opening of reasoning, if the prompt ends
        with it.
        """
        if self._template.start_anchor_re.search(prompt_text) is not None:
            return self._template.truncate_past_last_anchor(prompt_text)
        if self.reasoning is None:
            return ""
        _, opening, rest = prompt_text.rpartition(self.reasoning[0])
        return "" if rest.strip() else opening + rest

    def is_plain(self, has_tools: bool) -> bool:
        """Whether answers have only content, so that they need no parser."""
        return self.reasoning is None and not has_tools

    def parser(
        self,
        begun: str,
        tools: Tools | None,
        parallel: bool = True,
        guaranteed: ToolForm | None = None,
        has_content: bool = True,
    ) -> Parser:
        """A parser of one answer.

        Args:
            begun: the part of the answer that is in the prompt; see `begun`.
            tools: without any, what looks like a tool call is content.
            parallel: whether the answer may hold several calls; those after the first are left out if not.
            guaranteed: the form that all calls have, if a grammar guarantees it.
            has_content: False if it also guarantees that there is nothing but calls, and reasoning before them.
        """
        unread = () if tools else (CALLS_FIELD, END_FIELD)
        fields = {name: field for name, field in self._template.fields.items() if name not in unread}
        template = dataclasses.replace(self._template, fields=fields, defaults={})
        reader = CallReader(guaranteed) if guaranteed is not None and guaranteed.parameters is None else None
        calls = Calls(CallValues(template, self._family, list(tools or ())), limit=None if parallel else 1)
        return Parser(template, begun, calls, reader, has_content)

    def _reads(self, form: ToolForm) -> bool:
        """Whether a call in this form is understood."""
        if CALLS_FIELD not in self._template.fields:
            return False
        parser = self.parser(
            "", [{"function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}}]
        )
        parts = [*parser.feed(form.write("f", {"a": 1})), *parser.finish()]
        return parts == [ToolCallPart("f", '{"a": 1}')]

    def _reasoning(self) -> tuple[str, str] | None:
        for name, field in self._template.fields.items():
            if name in REASONING_FIELDS:
                return (field.open_literals or ["<think>"])[0], (field.close_literals or ["</think>"])[0]
        return None

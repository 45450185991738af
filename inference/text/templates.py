"""Renders a conversation with the model's own chat template.

transformers does the rendering; here a request's messages are brought into the form that templates expect, and
whatever a template makes of them that is not a prompt becomes a `RequestError`.

Invariants:
    1. The template is the model's own, never a request's, and no argument of a request replaces what it is given.
    2. Control tokens that a user types or a tool returns stay ordinary text. Those that the template writes are control
       tokens, and so are `<think>`, `<tool_call>` and others that are not special tokens where the application wrote
       them or the model did: in system messages, in answers, and in the beginning of an answer.
    3. The template writes the special tokens, so the tokenizer adds none: no BOS token comes twice.
"""

import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import (
    _compile_jinja_template,
    _get_control_token_patterns,
    encode_marked_chat,
    mark_control_tokens,
)

from inference.text.message_forms import forms, loses_instructions
from inference.text.shown_parts import CONVERSATION, TOOL, ShownParts, has_tool_turns
from inference.text.template_messages import Message, describing, mentions, messages_for
from inference.text.token_bytes import special_tokens
from interface.errors import RequestError, UnusablePrompt
from interface.requests import ChatPrompt

RESERVED_ARGUMENTS = frozenset(
    {
        "self",
        "add_generation_prompt",
        "chat_template",
        "compiled_template",
        "continue_final_message",
        "conversation",
        "conversations",
        "documents",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
        "xml_tools",
    }
)
"""Names that a request's template arguments must not have, in addition to those of special tokens."""

OWN_ROLES = frozenset({"system", "developer", "assistant"})
"""Roles of messages that the application wrote, or the model; all others are of users and tools."""
TOOLS_BY_OTHER_NAMES = ("xml_tools",)
"""What the tools are called in the templates of some models, here SmolLM3's."""
MOST_WRITTEN = 2**25
"""Characters that a template may write. Several times what a conversation may have; but a template that repeats the
tools with each message would write gigabytes."""
LONGEST_REASON = 300
"""Characters of a template's own error message that a client is shown; some quote the whole conversation."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as token ids, and as the text that the response parser wants to see."""

    token_ids: Sequence[int]
    text: str


class WritesTooMuch(RequestError):
    """A template writes far more than any prompt has. It would in the other forms of the conversation, too."""

    def __init__(self) -> None:
        super().__init__(
            f"The chat template writes more than {MOST_WRITTEN:,} characters for these messages.", "messages"
        )


def template_error(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the syntax error of a tokenizer's chat template, or of one of several; None if there is none."""
    template = tokenizer.chat_template
    for text in (template or {}).values() if not isinstance(template, str) else [template]:
        try:
            _compile_jinja_template(text)
        except TemplateSyntaxError as error:
            return f"{error.message} in line {error.lineno}"
    return None


class ChatTemplate:
    """The chat template of one tokenizer. Any thread may render; renderings wait for each other."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._shared_tokenizer = tokenizer
        self._own_tokenizer: PreTrainedTokenizerBase | None = None
        self._lock = threading.Lock()
        self._shown: dict[tuple[str, bool], ShownParts] = {}

    def render(self, prompt: ChatPrompt, check: Callable[[str], None] = lambda text: None) -> Rendered:
        """Return the prompt that the template makes of a conversation.

        Args:
            prompt: the conversation.
            check: is shown the text before it is tokenized, and may raise.

        Raises:
            UnusablePrompt: the model has no chat template.
            UnsupportedFeature: a message has parts that are not text.
            RequestError: the template cannot render these messages.
        """
        tools = None if prompt.tool_choice == "none" else [dict(tool) for tool in prompt.tools or ()] or None
        template = self._template(tools)
        _check_the_end(prompt)
        with self._lock:
            shown = self._shown_by(template, tools) if has_tool_turns(prompt.messages) else ShownParts()
            messages = messages_for(prompt.messages, template, shown)
            if tools and not self.knows_tools:
                messages.insert(0, describing(tools, template))
            self._check_keys([messages, tools])
            return self._apply(prompt, messages, tools, check)

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the model's template shows tools. Else they are described in a system message."""
        templates = self._shared_tokenizer.chat_template or ""
        text = templates if isinstance(templates, str) else "\n".join(templates.values())
        return any(mentions(text, name) for name in ("tools", *TOOLS_BY_OTHER_NAMES))

    @cached_property
    def _special_tokens(self) -> tuple[str, ...]:
        return tuple(special_tokens(self._shared_tokenizer).values())

    def _template(self, tools: list[dict[str, Any]] | None) -> str:
        """The template's text. Some models have one for conversations with tools and one for those without."""
        try:
            return self._shared_tokenizer.get_chat_template(tools=tools)
        except ValueError as error:
            named = self._shared_tokenizer.chat_template
            problem = (
                f"This model has no chat template for messages without tools (it has {', '.join(sorted(named))})."
                if isinstance(named, dict) and named
                else "This model has no chat template, so it cannot take messages."
            )
            raise UnusablePrompt(
                f"{problem} Send its prompt as text instead (POST /v1/completions or POST /generate).", "messages"
            ) from error

    def _shown_by(self, template: str, tools: list[dict[str, Any]] | None) -> ShownParts:
        """What the template shows of calls and results. One that fails at them in any form says so itself."""
        key = template, bool(tools)
        if key not in self._shown:
            messages = messages_for(CONVERSATION, template, ShownParts())
            arguments = {"tools": [TOOL] if tools else None, "add_generation_prompt": True}
            try:
                self._shown[key] = ShownParts.of(self._text(messages, arguments)[2])
            except RequestError:
                self._shown[key] = ShownParts(calls=mentions(template, "tool_calls"))
        return self._shown[key]

    def _apply(
        self,
        prompt: ChatPrompt,
        messages: list[Message],
        tools: list[dict[str, Any]] | None,
        check: Callable[[str], None],
    ) -> Rendered:
        arguments: dict[str, Any] = {
            **self._permitted(prompt.template_arguments),
            "tools": tools,
            "add_generation_prompt": prompt.add_generation_prompt,
            "continue_final_message": prompt.continue_final_message,
        }
        messages, arguments, text = self._text(messages, arguments)
        check(text)
        token_ids = self._encoded(messages, arguments)
        return Rendered(self._with_bos(token_ids) if prompt.add_special_tokens else token_ids, text)

    def _text(self, messages: list[Message], arguments: dict[str, Any]) -> tuple[list[Message], dict[str, Any], str]:
        """The text, and what it was made of: messages and tools in the first form that the template reads, if possible
        with all system messages.
        """
        found: tuple[list[Message], dict[str, Any], str] | None = None
        failure: RequestError | None = None
        for form, tools in forms(messages, arguments["tools"]):
            try:
                text = self._applied(form, **arguments | {"tools": tools})
            except WritesTooMuch:
                raise
            except RequestError as error:
                failure = failure or error
                continue
            found = found or (form, arguments | {"tools": tools}, text)
            if not loses_instructions(messages, text):
                return form, arguments | {"tools": tools}, text
        if found is not None:
            return found
        assert failure is not None
        raise failure

    def _encoded(self, messages: list[Message], arguments: dict[str, Any]) -> list[int]:
        """The token ids of what the template makes of messages, in which control tokens are marked as text."""
        tokenizer = self._tokenizer()
        of_others, _ = _get_control_token_patterns(tokenizer._get_control_tokens(self._template(arguments["tools"])))
        of_application, _ = _get_control_token_patterns(self._special_tokens)
        marked = [
            mark_control_tokens(message, of_application if message.get("role") in OWN_ROLES else of_others)
            for message in messages
        ]
        text = self._applied(marked, **mark_control_tokens(arguments, of_others))
        try:
            return encode_marked_chat(tokenizer, text)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # a token that the tokenizer makes of plain text, too, or a panic in tokenizers
            raise RequestError(f"The messages cannot be encoded: {error}", "messages") from error

    def _applied(self, messages: list[Message], **arguments: Any) -> str:
        """The text that transformers makes of the messages."""
        template = self._template(arguments["tools"])
        aliases = {name: arguments["tools"] for name in TOOLS_BY_OTHER_NAMES if mentions(template, name)}
        try:
            _compile_jinja_template(template).environment.concat = _joined  # the one that transformers renders, too
            text = self._tokenizer().apply_chat_template(messages, tokenize=False, **arguments, **aliases)
        except WritesTooMuch:
            raise
        except Exception as error:  # a template may fail in any way: its own exception, Undefined, a type, recursion
            raise RequestError(
                f"The chat template cannot render these messages: {_reason(error)}", "messages"
            ) from error
        assert isinstance(text, str)  # as one conversation is, which is not tokenized
        return text

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        """A copy that no other thread uses: making control tokens harmless switches the tokenizer's mode meanwhile."""
        if self._own_tokenizer is None:
            self._own_tokenizer = copy.deepcopy(self._shared_tokenizer)
        return self._own_tokenizer

    def _check_keys(self, value: object) -> None:
        """Refuse control tokens in the names of parameters: transformers makes them harmless only in texts."""
        for key in _keys(value):
            if found := next((token for token in self._special_tokens if token in key), None):
                raise RequestError(f"The name {key[:80]!r} has the control token {found!r} in it.", "messages")

    def _permitted(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The template arguments that a request may give: simple values, under names that mean nothing else."""
        reserved = RESERVED_ARGUMENTS | set(self._shared_tokenizer.special_tokens_map)
        return {
            name: value
            for name, value in arguments.items()
            if isinstance(value, str | int | float) and name not in reserved
        }

    def _with_bos(self, token_ids: list[int]) -> list[int]:
        """The ids with the BOS token that the tokenizer puts before a text, unless the template wrote one."""
        bos = self._shared_tokenizer.bos_token_id
        added = self._shared_tokenizer([""])["input_ids"][0]
        return [bos, *token_ids] if bos in added and token_ids[:1] != [bos] else token_ids


# --- Checks -----------------------------------------------------------------------------------------------------------


def _keys(value: object) -> Iterator[str]:
    """The names in an object, at any depth. No recursion: a request may nest deeper than Python's stack."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            yield from map(str, value)
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value


def _joined(written: Iterable[str]) -> str:
    """What a template writes, as one text. Raises WritesTooMuch before it has taken more memory than it may."""
    pieces = []
    room = MOST_WRITTEN
    for piece in written:
        room -= len(piece)
        if room < 0:
            raise WritesTooMuch
        pieces.append(piece)
    return "".join(pieces)


def _check_the_end(prompt: ChatPrompt) -> None:
    if not prompt.messages:
        raise RequestError("Expected at least one message, but got none.", "messages")
    if not prompt.continue_final_message:
        return
    if prompt.add_generation_prompt:
        raise RequestError(
            "Expected only one of add_generation_prompt and continue_final_message, but got both.",
            "continue_final_message",
        )
    if (role := prompt.messages[-1].get("role")) != "assistant":
        raise RequestError(
            f"continue_final_message continues a message of the assistant, but the last one has the role {role!r}.",
            "messages",
        )


def _reason(error: Exception) -> str:
    message = str(error) or type(error).__name__
    return message if len(message) <= LONGEST_REASON else message[:LONGEST_REASON] + " …"

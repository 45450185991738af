"""Renders a conversation with the model's own chat template.

transformers does the rendering; here a request's messages are brought into the form that templates expect, and
whatever a template makes of them that is not a prompt becomes a `RequestError`.

Invariants:
    1. The template is the model's own, never a request's, and no argument of a request replaces what it is given.
    2. Control tokens that a user types stay ordinary text; only those that the template writes are control tokens.
    3. The template writes the special tokens, so the tokenizer adds none: no BOS token comes twice.
"""

import copy
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from inference.text.described_tools import described_tools
from inference.text.families import family_of
from inference.text.message_forms import forms, loses_instructions, reads_one_call, with_single_calls
from inference.text.tool_forms import HERMES, ToolForm
from interface.errors import RequestError, UnsupportedFeature, UnusablePrompt
from interface.requests import ChatPrompt

Message = dict[str, Any]

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

TOOLS_BY_OTHER_NAMES = ("xml_tools",)
"""What the tools are called in the templates of some models, here SmolLM3's."""
LOOP_OVER_PARTS = re.compile(r"for\s+\w+\s+in\s+\w*message\w*(\.content|\[\s*['\"]content['\"]\s*\])")
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
        messages = [_message(message, index, template) for index, message in enumerate(prompt.messages)]
        if tools and not self.knows_tools:
            messages.insert(0, _describing(tools, template))
        if reads_one_call(template):
            messages = with_single_calls(messages)
        self._check_keys([messages, tools])
        with self._lock:
            return self._apply(prompt, messages, tools, check)

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the model's template shows tools. Else they are described in a system message."""
        templates = self._shared_tokenizer.chat_template or ""
        text = templates if isinstance(templates, str) else "\n".join(templates.values())
        return any(_mentions(text, name) for name in ("tools", *TOOLS_BY_OTHER_NAMES))

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
        token_ids = list(self._applied(messages, sanitize_control_tokens=True, **arguments)["input_ids"])
        return Rendered(self._with_bos(token_ids) if prompt.add_special_tokens else token_ids, text)

    def _text(self, messages: list[Message], arguments: dict[str, Any]) -> tuple[list[Message], dict[str, Any], str]:
        """The text, and what it was made of: messages and tools in the first form that the template reads, if possible
        with all system messages.
        """
        found: tuple[list[Message], dict[str, Any], str] | None = None
        failure: RequestError | None = None
        for form, tools in forms(messages, arguments["tools"]):
            try:
                text = self._applied(form, tokenize=False, **arguments | {"tools": tools})
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

    def _applied(self, messages: list[Message], **arguments: Any) -> Any:
        """What transformers makes of the messages: a text, or token ids with their kinds."""
        template = self._template(arguments["tools"])
        aliases = {name: arguments["tools"] for name in TOOLS_BY_OTHER_NAMES if _mentions(template, name)}
        try:
            _compile_jinja_template(template).environment.concat = _joined  # the one that transformers renders, too
            return self._tokenizer().apply_chat_template(messages, **arguments, **aliases)
        except WritesTooMuch:
            raise
        except Exception as error:  # a template may fail in any way: its own exception, Undefined, a type, recursion
            raise RequestError(
                f"The chat template cannot render these messages: {_reason(error)}", "messages"
            ) from error

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        """A copy that no other thread uses: making control tokens harmless switches the tokenizer's mode meanwhile."""
        if self._own_tokenizer is None:
            self._own_tokenizer = copy.deepcopy(self._shared_tokenizer)
        return self._own_tokenizer

    def _check_keys(self, value: object) -> None:
        """Refuse control tokens in the names of parameters: transformers makes them harmless only in texts."""
        added = self._shared_tokenizer.added_tokens_decoder.values()
        control_tokens = [token.content for token in added if token.special]
        for key in _keys(value):
            if found := next((token for token in control_tokens if token in key), None):
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


# --- One message ------------------------------------------------------------------------------------------------------


def _message(message: Mapping[str, Any], index: int, template: str) -> Message:
    """A message in the form that this template expects."""
    where = f"messages.{index}"
    role = message.get("role")
    if not isinstance(role, str):
        raise RequestError(f"Expected a message with a role, but got {role!r}.", f"{where}.role")
    result = {**message, "role": _role(role, template), "content": _content(message.get("content"), where, template)}
    if calls := result.pop("tool_calls", None):
        result["tool_calls"] = [_tool_call(call, f"{where}.tool_calls.{i}") for i, call in enumerate(calls)]
        if not _mentions(template, "tool_calls"):
            result["content"] = _with_calls_as_text(result, template)
    elif result["content"] is None:
        result["content"] = ""
    return result


def _role(role: str, template: str) -> str:
    """The role's name in the template: `developer` is a newer name for `system`, `function` an older one for `tool`."""
    newer = {"developer": "system", "function": "tool"}
    return newer[role] if role in newer and not _mentions(template, role) else role


def _content(content: object, where: str, template: str) -> str | list[dict[str, str]] | None:
    """Content as one text, or as parts if that is all that the template can read."""
    if content is None:
        return None
    if isinstance(content, str):
        texts = [content]
    elif isinstance(content, Sequence):
        texts = [_text(part, f"{where}.content.{index}") for index, part in enumerate(content)]
    else:
        raise RequestError(f"Expected a text or a list of parts, but got {content!r}.", f"{where}.content")
    if LOOP_OVER_PARTS.search(template) and "is string" not in template:
        return [{"type": "text", "text": text} for text in texts]
    return "\n".join(texts)


def _text(part: object, where: str) -> str:
    if isinstance(part, Mapping):
        text = part.get("text", part.get("refusal"))
        if isinstance(text, str):
            return text
        raise UnsupportedFeature(f"Expected a text part, but got one of type {part.get('type')!r}.", where)
    if isinstance(part, str):
        return part
    raise RequestError(f"Expected a text part, but got {part!r}.", where)


def _tool_call(call: object, where: str) -> dict[str, Any]:
    """A tool call with its arguments as an object, which is what templates want; on the wire they are JSON text."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(f"Expected a tool call with a function's name, but got {call!r}.", where)
    assert isinstance(call, Mapping)
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise RequestError(
                f"Expected the arguments as a JSON object, but got {arguments[:LONGEST_REASON]!r}.",
                f"{where}.function.arguments",
            ) from error
    if not isinstance(arguments, Mapping):
        raise RequestError(
            f"Expected the arguments as a JSON object, but got {arguments!r}.", f"{where}.function.arguments"
        )
    return {"type": "function", **call, "function": {**function, "arguments": dict(arguments)}}


def _describing(tools: Sequence[Mapping[str, Any]], template: str) -> Message:
    """A system message that describes the tools, in the form that this template expects."""
    return _message({"role": "system", "content": described_tools(tools, _form_of(template))}, 0, template)


def _with_calls_as_text(message: Message, template: str) -> str:
    """For a template that knows no tool calls: the content, followed by the calls as the model wrote them."""
    form = _form_of(template)
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]
    return "\n".join([*filter(None, [message["content"]]), form.write_all(calls)])


def _form_of(template: str) -> ToolForm:
    """How a model writes calls, by its template."""
    family = family_of(template)
    return HERMES if family is None or family.form is None else family.form


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


# --- Checks -----------------------------------------------------------------------------------------------------------


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


def _mentions(template: str, word: str) -> bool:
    return re.search(rf"\b{word}\b", template) is not None


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

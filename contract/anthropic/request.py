"""Reads the body of a Messages request, and turns its blocks into messages in the form of chat templates."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from contract.anthropic.blocks import text_of_block, unknown_block
from contract.anthropic.tool_changes import OfferedTools
from contract.anthropic.tools import Tool, ToolChoiceSettings, callable_only
from contract.bodies import LenientBody, refuse
from contract.content import first_of_question, text_at
from contract.conversation import checked_prompt, thinking_switches
from contract.grammars import schema_grammar
from contract.opaque import REASONING, opened
from contract.refusals import Refusal
from contract.summaries import INTRODUCTION, REQUEST, SUMMARY_TOKENS
from contract.tools import tool_call
from interface.requests import MAX_INTEGER, MOST_STOP_STRINGS, SMALLEST_TOP_P, ChatPrompt, Grammar, SamplingParams

MAX_TEMPERATURE = 2
OF_OTHER_SERVERS = ("redacted_thinking", "server_tool_use", "mcp_tool_use", "mcp_tool_listing", "fallback")
"""Blocks of answers from Anthropic's servers, besides the results of tools that run there."""
NO_THREADS = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
"""What makes Anthropic's own tool runner go on without a thread, with the whole conversation in each request."""


class Thinking(LenientBody):
    """Whether to reason. `between_tools` turns it off too; the reports on progress that it asks for are optional."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    display: Literal["summarized", "omitted", "updates"] | None = Field(
        default=None,
        description="`omitted` leaves the text of thinking blocks empty. So does `updates`, which shows reports on "
        "progress only: there are none. `summarized` shows all of it, like the default.",
    )

    @property
    def is_shown(self) -> bool:
        return self.display in (None, "summarized")


class OutputFormat(LenientBody):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(LenientBody):
    format: OutputFormat | None = None
    effort: str | None = Field(default=None, description="How much to reason, for templates that know it.")


class Compaction(LenientBody):
    """How to sum up a conversation."""

    type: Literal["summarize"]
    instructions: str | None = Field(default=None, description="Takes the place of this server's own request for it.")


class Message(LenientBody):
    """One message of a conversation. A system message may set an effort, and then needs no content."""

    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]] | None = None
    output_config: OutputConfig | None = None
    clear_at: Literal["next_user_message", "never"] | None = Field(
        default=None, description="`next_user_message` hides a system message once a message of the user's follows it."
    )

    @property
    def effort(self) -> str | None:
        return None if self.output_config is None else self.output_config.effort

    @property
    def kind(self) -> str:
        """The role; `tool` if the message has results of tools."""
        blocks = self.content if isinstance(self.content, list) else []
        return "tool" if any(block.get("type") == "tool_result" for block in blocks) else self.role


class CountTokensBody(LenientBody):
    """A conversation whose tokens are to be counted."""

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
    system: str | list[dict[str, Any]] | None = None
    tools: (
        list[Annotated[Tool | None, BeforeValidator(callable_only, json_schema_input_type=dict[str, Any])]] | None
    ) = None
    tool_choice: ToolChoiceSettings | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    mcp_servers: Annotated[None, refuse("this server calls no MCP servers; offer their tools as tools", [])] = None
    context_management: dict[str, Any] | None = Field(
        default=None, description="Changes nothing: a conversation stays whole."
    )

    def prompt(self) -> ChatPrompt:
        """The conversation in the form of chat templates. Raises Refusal."""
        choice = self.tool_choice or ToolChoiceSettings(type="auto")
        messages = list(_merged(self._messages()))
        is_begun = _is_begun(messages)
        prompt = ChatPrompt(
            messages,
            self._offered_tools(),
            parallel_tool_calls=not choice.disable_parallel_tool_use,
            template_arguments=dict(self._template_arguments()),
            add_generation_prompt=not is_begun,
            continue_final_message=is_begun,
        )
        return checked_prompt(prompt, choice.as_choice())

    def _offered_tools(self) -> list[dict[str, Any]]:
        """The tools that are there at the end of the conversation. Raises Refusal."""
        offered = OfferedTools(self.tools or ())
        for number, message in enumerate(self.messages):
            if isinstance(message.content, list):
                offered.take(message.content, f"messages.{number}.content")
        return offered.functions()

    def _template_arguments(self) -> Iterator[tuple[str, Any]]:
        if self.thinking is not None:
            yield from thinking_switches(self.thinking.type in ("enabled", "adaptive")).items()
        first = None if self.output_config is None else self.output_config.effort
        efforts = [effort for effort in (first, *(message.effort for message in self.messages)) if effort is not None]
        if efforts:
            yield "reasoning_effort", efforts[-1]

    def _messages(self) -> Iterator[dict[str, Any]]:
        if self.system:
            yield {"role": "system", "content": text_at(self.system, "system")}
        last_of_user = max((number for number, turn in enumerate(self.messages) if turn.role == "user"), default=-1)
        asked = first_of_question([message.kind for message in self.messages])
        for number, message in enumerate(self.messages):
            where = f"messages.{number}.content"
            if message.clear_at == "next_user_message" and number < last_of_user:
                continue
            if message.content is None:
                if message.role != "system" or message.effort is None:
                    raise Refusal(400, f"{where}: Expected a text or a list of blocks, got none.", param=where)
            elif isinstance(message.content, str):
                yield {"role": message.role, "content": message.content}
            elif message.role == "assistant":
                yield _summary(message.content) or _assistant(message.content, where)
            else:
                notes_media = number < asked and message.role == "user"
                yield from _user(message.role, message.content, where, notes_media=notes_media)


class MessagesBody(CountTokensBody):
    """What to generate, and how to answer."""

    max_tokens: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = Field(
        description="Stop after this many tokens. 0 only computes the prompt, for the prefix cache."
    )
    stream: bool = False
    stop_sequences: Annotated[list[Annotated[str, Field(min_length=1)]] | None, Field(max_length=MOST_STOP_STRINGS)] = (
        None
    )
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = None
    output_format: OutputFormat | None = Field(default=None, description="An older output_config.format.")
    stop: Annotated[None, refuse("it is a field of OpenAI's APIs; use stop_sequences", [])] = None
    response_format: Annotated[None, refuse("it is a field of OpenAI's APIs; use output_config.format")] = None
    reasoning_effort: Annotated[None, refuse("it is a field of OpenAI's APIs; use output_config.effort")] = None
    n: Annotated[None, refuse("a message has no other choices; send the request several times", 1)] = None
    container: Annotated[None, refuse("this server runs no containers")] = None
    compaction: Compaction | None = Field(
        default=None, description="Sums up the conversation: the answer is one `compaction` block, for later requests."
    )
    thread: dict[str, Any] | None = Field(
        default=None, description="Refused, so that clients send whole conversations."
    )

    def check(self) -> None:
        """Raises Refusal."""
        if self.thread is not None:
            message = "thread: this server keeps no conversations; send the whole one as messages"
            raise Refusal(400, message, param="thread", details=NO_THREADS)

    def summary_prompt(self, compaction: Compaction) -> ChatPrompt:
        """The conversation with the request to sum it up. Raises Refusal."""
        wanted = (compaction.instructions or "").strip() or REQUEST
        return checked_prompt(
            ChatPrompt(
                [*_merged(chain(self._messages(), [{"role": "user", "content": wanted}]))],
                template_arguments=dict(self._template_arguments()),
                leave_room=SUMMARY_TOKENS,
            )
        )

    def params(self) -> SamplingParams:
        """The sampling parameters, which are checked already."""
        return SamplingParams.model_construct(
            max_tokens=max(1, self.max_tokens),  # the engine makes one token at least
            stop=self.stop_sequences,
            temperature=self.temperature,
            top_p=SMALLEST_TOP_P if self.top_p == 0 else self.top_p,
            top_k=self.top_k,
        )

    def grammar(self) -> Grammar | None:
        """The grammar of the answer's text, if the request has one. Raises Refusal."""
        config = self.output_config or OutputConfig()
        if config.format is not None:
            return schema_grammar(config.format.schema_, "output_config.format.schema")
        if self.output_format is not None:
            return schema_grammar(self.output_format.schema_, "output_format.schema")
        return None


def _assistant(blocks: Sequence[dict[str, Any]], where: str) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for number, block in enumerate(blocks):
        match block:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "thinking", "thinking": str(thought)}:
                thoughts.append(thought or opened(block.get("signature"), REASONING) or "")
            case {"type": "compaction", "content": str(text)}:
                texts.append(text)
            case {"type": "compaction"} if block.get("content") is None:
                pass
            case {"type": str(type)} if _is_of_other_servers(type):
                pass
            case {"type": "tool_use", "id": str(id), "name": str(name), "input": dict(arguments)}:
                calls.append(tool_call(id, name, arguments))
            case _:
                raise unknown_block(block, f"{where}.{number}", "text, thinking or tool_use")
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if reasoning := "".join(thoughts):
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return message


def _summary(blocks: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """A message that is nothing but a summary, in the user's words: many templates let no assistant begin."""
    summaries = [block.get("content") for block in blocks if block.get("type") == "compaction"]
    if len(summaries) < len(blocks) or not all(isinstance(summary, str) for summary in summaries):
        return None
    return {"role": "user", "content": INTRODUCTION + "\n\n".join(map(str, summaries))}


def _is_of_other_servers(type: str) -> bool:
    """Whether a block says nothing to this model: it is encrypted, or of a tool that runs on Anthropic's servers.

    Conversations that were begun there have them. Such tools are left out, too; what came of them is in the text.
    """
    return type in OF_OTHER_SERVERS or type.endswith("_tool_result")


def _user(role: str, blocks: Sequence[dict[str, Any]], where: str, *, notes_media: bool) -> Iterator[dict[str, Any]]:
    """The results of tools come first, as messages of their own; then the text."""
    texts: list[str] = []
    for number, block in enumerate(blocks):
        match block:
            case {"type": "tool_result", "tool_use_id": str(id)}:
                yield {"role": "tool", "tool_call_id": id, "content": _result(block, f"{where}.{number}")}
            case {"type": "tool_addition" | "tool_removal"} if role == "system":
                pass
            case _:
                place = f"{where}.{number}"
                texts.append(text_of_block(block, place, "text or tool_result", notes_media=notes_media))
    if texts:
        yield {"role": role, "content": "\n".join(texts)}


def _result(result: Mapping[str, Any], where: str) -> str:
    """The text of a tool's result. Raises Refusal."""
    content, is_error = result.get("content"), result.get("is_error")
    if not isinstance(is_error, bool | None):
        raise Refusal(400, f"{where}.is_error: Expected true or false.", param=f"{where}.is_error")
    where = f"{where}.content"
    if isinstance(content, list):
        places = ((f"{where}.{number}", block) for number, block in enumerate(content))
        text = "\n".join(text_of_block(block, place, "text", notes_media=True) for place, block in places)
    else:
        text = "" if content is None else text_at(content, where)
    return f"Error: {text}" if is_error else text  # templates have no field for it


def _is_begun(messages: Sequence[dict[str, Any]]) -> bool:
    """Whether the client has written the beginning of the answer, as the last message."""
    last = messages[-1] if messages else {"role": "user"}
    return last["role"] == "assistant" and bool(last["content"]) and "tool_calls" not in last


def _merged(messages: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Join consecutive messages of the same role: the API allows them, and many templates do not."""
    last: dict[str, Any] | None = None
    for message in messages:
        if last is not None and _are_one(last, message):
            last = _joined(last, message)
            continue
        if last is not None:
            yield last
        last = message
    if last is not None:
        yield last


def _are_one(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two messages can be one. Each tool result is one by itself; a text after calls would come before them."""
    if first["role"] != second["role"] or first["role"] == "tool":
        return False
    return "tool_calls" not in first or not (second["content"] or "reasoning_content" in second)


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    joined = first | second
    for name in ("content", "reasoning_content"):
        if texts := [message[name] for message in (first, second) if message.get(name)]:
            joined[name] = "\n\n".join(texts)
    if calls := [*first.get("tool_calls", ()), *second.get("tool_calls", ())]:
        joined["tool_calls"] = calls
    return joined

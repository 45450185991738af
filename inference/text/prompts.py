"""Prepares a request for the engine: token ids, the grammar of its answer, and the reader of its answer.

All of this happens on worker threads, before a request is submitted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from inference.text.detokenizer import Decode
from inference.text.families import HERMES_FAMILY
from inference.text.grammar import CompiledGrammar, GrammarCompiler
from inference.text.grammar_source import Thought
from inference.text.prompt_length import tokens_at_least
from inference.text.response_format import ResponseFormat, Tools
from inference.text.response_parser import Parser
from inference.text.shortening import render_to_fit
from inference.text.templates import ChatTemplate, Rendered
from inference.text.token_bytes import special_tokens
from inference.text.tool_forms import HARMONY_FINAL, ToolForm
from inference.text.tool_grammar import is_forced, tool_grammar, wants_grammar
from interface.engine import Tokenized
from interface.errors import PromptTooLong, UnsupportedFeature, UnusablePrompt
from interface.requests import ChatPrompt, EncodedRequest, GenerationRequest, Grammar, Prompt, TextPrompt, TokenPrompt

COUNTED_CONTEXTS = 8
"""How many times the context a prompt may be whose tokens are only counted: clients ask how much too long one is."""


@dataclass(frozen=True, slots=True)
class ResponseReader:
    """How to parse a request's answer. Each of its choices starts a parser of its own."""

    format: ResponseFormat
    begun: str
    tools: Tools | None
    parallel: bool
    guaranteed: ToolForm | None
    """The form that a grammar makes all calls take."""
    has_content: bool
    """Whether the answer may be anything but calls."""

    def start(self) -> Parser:
        return self.format.parser(self.begun, self.tools, self.parallel, self.guaranteed, self.has_content)


class PromptEncoder:
    """Makes token ids of prompts, and the grammars and readers of answers. Any thread may call any method."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, context: int, vocabulary: int, eos_ids: Iterable[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._context = context
        self._vocabulary = vocabulary
        self._template = ChatTemplate(tokenizer)
        self._compiler = GrammarCompiler(tokenizer, vocabulary, eos_ids)
        self._format = ResponseFormat.of(tokenizer)
        self._special = special_tokens(tokenizer)
        self._is_plain = _is_plain(tokenizer)

    @cached_property
    def _hermes(self) -> ResponseFormat:
        """The format that forced calls take where the model's own is not known."""
        return ResponseFormat.hermes()

    @cached_property
    def _format_with_calls(self) -> ResponseFormat | None:
        """The format of answers to prompts that describe tools because the template does not."""
        return ResponseFormat.of(self._tokenizer, HERMES_FAMILY)

    def render(self, prompt: Prompt, contexts: int = 1) -> Rendered:
        """Return a prompt's token ids, and a conversation's text.

        Args:
            prompt: a text, token ids or a conversation.
            contexts: a prompt that is far longer than this many contexts is not tokenized to its end.

        Raises:
            PromptTooLong: it is.
            RequestError: the chat template cannot render it, or there is none.
        """
        check = partial(self._check_length, contexts=contexts)
        if isinstance(prompt, TokenPrompt):
            return Rendered(prompt.token_ids, "")
        if isinstance(prompt, TextPrompt):
            check(prompt.text)
            return Rendered(self._tokenized(prompt.text, prompt.add_special_tokens), "")
        if prompt.leave_room is None:
            return self._template.render(prompt, check)
        return self._rendered_to_fit(prompt, prompt.leave_room)

    def render_checked(self, prompt: Prompt) -> Rendered:
        """Return a prompt's token ids, all of which the model knows, and a conversation's text.

        Raises:
            UnusablePrompt: the model cannot begin with this prompt.
        """
        rendered = self.render(prompt)
        if not rendered.token_ids:
            raise UnusablePrompt(
                "Expected a prompt of at least one token, got none: it is empty, or has no character that the model's "
                "tokenizer knows."
            )
        if (largest := max(rendered.token_ids)) >= self._vocabulary:
            raise UnusablePrompt(f"The prompt has token {largest}; the model knows those below {self._vocabulary}.")
        return rendered

    def tokenize(self, prompt: Prompt) -> Tokenized:
        """Return a prompt's token ids, and the text of each. Clients count prompts that are too long, too.

        Raises:
            PromptTooLong: it is far longer than `COUNTED_CONTEXTS` contexts.
            RequestError: the chat template cannot render it, or there is none.
        """
        token_ids = self.render(prompt, COUNTED_CONTEXTS).token_ids
        return Tokenized(token_ids, self._tokenizer.convert_ids_to_tokens(list(token_ids)))

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included."""
        if token_ids and max(token_ids) >= self._vocabulary:
            raise UnusablePrompt(f"Expected token ids below {self._vocabulary}, got {max(token_ids)}.", "tokens")
        return self._decode(token_ids, skip_special_tokens=False)

    def reader(self, request: GenerationRequest, prompt_text: str) -> ResponseReader | None:
        """Return the reader of the answer, if the request wants it read and there is something to find."""
        prompt = request.prompt
        if not request.parse_response or not isinstance(prompt, ChatPrompt):
            return None
        tools = _offered(prompt)
        answer_format = self._format_for(prompt)
        if answer_format is None or answer_format.is_plain(has_tools=tools is not None):
            return None
        guaranteed = answer_format.form if _calls_have_grammar(request) else None
        begun, parallel = answer_format.begun(prompt_text), prompt.parallel_tool_calls
        return ResponseReader(answer_format, begun, tools, parallel, guaranteed, has_content=not is_forced(prompt))

    def grammar(self, request: GenerationRequest, reader: ResponseReader | None) -> CompiledGrammar | None:
        """Return the grammar of the answer, if the request or its tools ask for one.

        Raises:
            RequestError: it cannot be enforced.
        """
        calls = self._tool_grammar(request) if _calls_have_grammar(request) else None
        if calls is None:
            return None if request.grammar is None else self._compiler.compile(request.grammar, _thought(reader))
        if is_forced(request.prompt):
            return self._compiler.compile(calls, _thought(reader))
        if request.grammar is None:
            return self._compiler.compile(calls, self._marked_by_tokens(_thought(reader)))
        return self._compiler.compile(calls, _thought(reader), otherwise=request.grammar)

    def begun(self, request: GenerationRequest) -> Sequence[int]:
        """Return how an answer that has a grammar begins, in formats where it begins with a header."""
        prompt = request.prompt
        if request.grammar is None or not isinstance(prompt, ChatPrompt) or _calls_have_grammar(request):
            return []
        has_header = self._format is not None and self._format.is_harmony and prompt.add_generation_prompt
        return self._tokenized(HARMONY_FINAL) if has_header else []

    def hidden_tokens(self, encoded: EncodedRequest) -> Mapping[int, str]:
        """The special tokens that have no text in the answer, with their texts."""
        reader: ResponseReader | None = encoded.reader
        if not encoded.params.skip_special_tokens:
            return {}
        if reader is None:
            return self._special
        return {token_id: token for token_id, token in self._special.items() if not reader.format.keeps(token)}

    def decoder(self, encoded: EncodedRequest) -> Decode:
        """Return what makes text of the answer's token ids."""
        hidden = self.hidden_tokens(encoded)
        if not hidden:
            return self.detokenize
        if encoded.reader is None:
            return self._decode
        return lambda token_ids: self.detokenize([token_id for token_id in token_ids if token_id not in hidden])

    def _decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        if self._is_plain:
            plain: str = self._tokenizer.backend_tokenizer.decode(list(token_ids), skip_special_tokens)
            return plain
        text = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)  # a list of texts comes only for a list of lists
        return text

    def _rendered_to_fit(self, prompt: ChatPrompt, room: int) -> Rendered:
        most_tokens = self._context - min(room, self._context // 2)
        return render_to_fit(prompt, most_tokens, lambda form: self._template.render(form, self._check_length))

    def _check_length(self, text: str, contexts: int = 1) -> None:
        """Refuse a text that is far longer than this many contexts."""
        if (tokens := tokens_at_least(text, contexts * self._context, self._tokenized)) is not None:
            raise PromptTooLong(tokens, 1, self._context, is_counted=False)

    def _tokenized(self, text: str, add_special_tokens: bool = False) -> list[int]:
        # A list of one: tokenizers releases the interpreter's lock only for lists. Not verbose: transformers would warn
        # that a text longer than the model's context leads to indexing errors, but such a text is only counted here.
        try:
            tokenized = self._tokenizer([text], add_special_tokens=add_special_tokens, verbose=False)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # a panic in tokenizers is not an Exception
            raise UnusablePrompt(f"The model's tokenizer cannot make tokens of this text: {error}") from error
        token_ids: list[int] = tokenized["input_ids"][0]
        return token_ids

    def _format_for(self, prompt: ChatPrompt) -> ResponseFormat | None:
        """The model's own format, or one with calls in the form of Hermes if it needs that.

        It does if its template knows no tools, or if a call is forced and there is no grammar for the model's own form.
        """
        if is_forced(prompt) and (self._format is None or self._format.form is None):
            return self._hermes
        if _offered(prompt) is not None and not self._template.knows_tools:
            return self._format_with_calls
        return self._format

    def _marked_by_tokens(self, thought: Thought | None) -> Thought | None:
        """The reasoning if its borders are special tokens; None if they are text like any other."""
        special = self._compiler.special_tokens()
        return thought if thought and (thought.opening in special or thought.closing in special) else None

    def _tool_grammar(self, request: GenerationRequest) -> Grammar:
        """The grammar of the calls. Raises RequestError."""
        prompt = request.prompt
        assert isinstance(prompt, ChatPrompt)
        answer_format = self._format_for(prompt)
        if answer_format is None or answer_format.form is None:
            raise UnsupportedFeature(
                "This model writes tool calls in a form for which there is no grammar, so tools cannot be strict, nor "
                "come with a grammar of the answer. Leave that out, or demand a call with tool_choice.",
                "tools",
            )
        special = self._compiler.special_tokens()
        return tool_grammar(prompt, answer_format.form, special, has_otherwise=request.grammar is not None)


def _calls_have_grammar(request: GenerationRequest) -> bool:
    """Whether calls follow a grammar: they are forced, or strict, or all of the answer follows one."""
    prompt = request.prompt
    if not isinstance(prompt, ChatPrompt):
        return False
    return wants_grammar(prompt) or (request.grammar is not None and _offered(prompt) is not None)


def _offered(prompt: ChatPrompt) -> Tools | None:
    """The tools that the model may call."""
    return prompt.tools or None if is_forced(prompt) or prompt.tool_choice == "auto" else None


def _thought(reader: ResponseReader | None) -> Thought | None:
    """The reasoning that may come before what a grammar demands."""
    if reader is None or reader.format.reasoning is None or reader.format.is_harmony:
        return None  # a grammar of calls in harmony's form has a place for reasoning of its own
    return Thought(*reader.format.reasoning, is_open=reader.start().is_reasoning)


def _is_plain(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer's `decode` only checks the ids' type and calls the tokenizers library.

    That check takes ten times as long as the decoding, for each token.
    """
    kind = type(tokenizer)
    return (
        isinstance(tokenizer, PreTrainedTokenizerFast)
        and kind.decode is PreTrainedTokenizerBase.decode
        and kind._decode is PreTrainedTokenizerFast._decode
    )

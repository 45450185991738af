"""Makes an answer match a grammar: a JSON schema, a regular expression, a list of choices or a Lark grammar.

llguidance does the work: it knows at every step which tokens may come next. A grammar is compiled once, off the
stepping thread, and kept for the requests that ask for it again; each sequence moves through a copy of its own.
llguidance is imported, and learns the tokenizer's vocabulary, only when the first grammar is compiled.

Invariants:
    1. A row's mask allows at least one token while its grammar is unfinished, and no token that the grammar forbids.
    2. Compiling and every step are bounded in time and memory, whatever the grammar.
    3. JSON has at most 16 characters of white space in one place: unbounded, some models write nothing else.
"""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from inference.text.grammar_limits import check_lark, check_length, check_pattern, check_schema
from interface.errors import RequestError, UnsupportedFeature
from interface.requests import Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MaskRow = NDArray[np.int32]
"""A bit for each token, the lowest bit first: [ceil(vocabulary / 32)]. A set bit allows its token."""

WHITE_SPACE = r"[\x20\x0A]{1,16}"
LONGEST_REASON = 500
"""Characters of llguidance's own message that a client is shown."""
PROBED_TOKENS = 4
"""Steps taken while compiling, to find a grammar that is too much for a step before the answer begins."""
NAMES = {
    "json_schema": ("JSON schema", "response_format"),
    "regex": ("regular expression", "structured_outputs"),
    "choice": ("choice", "structured_outputs"),
    "lark": ("grammar", "structured_outputs"),
    "tools": ("grammar of the tools", "tools"),
}
"""What an error calls each kind, and the request's field that it names."""


class GrammarError(RuntimeError):
    """A grammar could not be followed further; its sequence ends."""


class GrammarState:
    """Where one sequence is in its grammar."""

    def __init__(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher

    @property
    def is_finished(self) -> bool:
        """Whether the grammar is complete, so that only an end-of-sequence token could follow."""
        return self._matcher.is_stopped()

    def fill_mask(self, row: MaskRow) -> None:
        """Set the bits of the tokens that may come next, and clear all others.

        Raises:
            GrammarError: the step needs more than the limits allow.
        """
        self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        self._check()

    def advance(self, token_id: int) -> None:
        """Take the token that was chosen.

        Raises:
            GrammarError: the grammar does not allow it.
        """
        self._matcher.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"The grammar cannot be followed further: {_shortened(self._matcher.get_error())}")


class CompiledGrammar:
    """A grammar in the vocabulary of one tokenizer. Any thread may start a state."""

    def __init__(self, matcher: "LLMatcher") -> None:
        self._matcher = matcher  # stays at the beginning

    def start(self) -> GrammarState:
        """A state at the beginning of the grammar, independent of all others."""
        return GrammarState(self._matcher.deep_copy())


class GrammarCompiler:
    """Compiles grammars for one tokenizer, and keeps the most recently used. Any thread may compile."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocabulary: int, eos_ids: Iterable[int], capacity: int = 64
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._eos_ids = sorted(eos_ids)
        self._capacity = capacity
        self._compiled: OrderedDict[Grammar, CompiledGrammar] = OrderedDict()
        self._cache_lock = threading.Lock()
        self._compile_lock = threading.Lock()  # one at a time: several expensive grammars take no more than one core
        self._token_trie: LLTokenizer | None = None

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Return the compiled grammar, from the cache if it is there.

        Raises:
            UnsupportedFeature: the model's tokenizer cannot be used with grammars.
            RequestError: the grammar cannot be enforced, or is too large; the message names the keyword or the place.
        """
        if (compiled := self._cached(grammar)) is not None:
            return compiled
        with self._compile_lock:
            if (compiled := self._cached(grammar)) is None:
                compiled = self._compile(grammar)
                self._keep(grammar, compiled)
        return compiled

    def _cached(self, grammar: Grammar) -> CompiledGrammar | None:
        with self._cache_lock:
            if (compiled := self._compiled.get(grammar)) is not None:
                self._compiled.move_to_end(grammar)
        return compiled

    def _keep(self, grammar: Grammar, compiled: CompiledGrammar) -> None:
        with self._cache_lock:
            self._compiled[grammar] = compiled
            while len(self._compiled) > self._capacity:
                self._compiled.popitem(last=False)

    def _compile(self, grammar: Grammar) -> CompiledGrammar:
        trie = self._trie()
        from llguidance import LLMatcher

        try:
            matcher = LLMatcher(trie, _source(grammar), log_level=0, limits=_limits())
        except ValueError as error:
            raise _refusal(grammar, str(error)) from error
        if matcher.is_error():
            raise _refusal(grammar, matcher.get_error())
        compiled = CompiledGrammar(matcher)
        self._probe(grammar, compiled)
        return compiled

    def _trie(self) -> "LLTokenizer":
        """The vocabulary as llguidance wants it; takes a tenth of a second or so, once."""
        if self._token_trie is None:
            from llguidance.hf import from_tokenizer

            tokenizer: Any = self._tokenizer  # not every tokenizer is of the kind that the function says it takes
            try:
                self._token_trie = from_tokenizer(tokenizer, self._vocabulary, self._eos_ids or None)
            except Exception as error:  # a slow tokenizer, or one that llguidance cannot read
                raise UnsupportedFeature(
                    f"Structured output needs a tokenizer of the tokenizers library, not the one of this model: {error}"
                ) from error
        return self._token_trie

    def _probe(self, grammar: Grammar, compiled: CompiledGrammar) -> None:
        """Take a few steps, so that a grammar which is too much for one is refused rather than broken off."""
        state = compiled.start()
        row = np.zeros((self._vocabulary + 31) // 32, dtype=np.int32)
        try:
            for _ in range(PROBED_TOKENS):
                if state.is_finished:
                    return
                state.fill_mask(row)
                allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))
                if not allowed.size:
                    raise GrammarError("no token of the vocabulary can continue it")
                state.advance(int(allowed[-1]))
        except GrammarError as error:
            raise _refusal(grammar, str(error)) from error


def _limits() -> "LLParserLimits":
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_grammar_size=8_000,  # symbols; compiling is quadratic in them: this many take some 70 ms
        initial_lexer_fuel=500_000,  # some 10 ms
        step_lexer_fuel=200_000,  # some 14 ms
        step_max_items=50_000,  # some 3 ms
        max_lexer_states=50_000,  # some 100 MB
        verbose_errors=False,
    )


def _source(grammar: Grammar) -> str:
    """The grammar in the form that llguidance reads. Raises ValueError."""
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import any_to_lark

    match grammar.kind:
        case "json_schema":
            check_length(grammar.source)
            return LLMatcher.grammar_from_json_schema(json_schema(_json(grammar.source)))
        case "regex":
            check_pattern(grammar.source)
            return LLMatcher.grammar_from_regex(grammar.source)
        case "choice":
            check_length(grammar.source)
            return LLMatcher.grammar_from_regex("|".join(map(_escaped, _choices(grammar.source))))
        case "lark":
            check_lark(grammar.source)
            try:
                return LLMatcher.grammar_from_lark(any_to_lark(grammar.source))
            except Exception as error:  # it is neither Lark nor llama.cpp's GBNF
                raise ValueError(str(error)) from error
        case "tools":
            return LLMatcher.grammar_from_lark(grammar.source)


def json_schema(schema: object, *, lenient: bool = False) -> dict[str, Any]:
    """A request's schema with our options for llguidance in the place of its own.

    Args:
        schema: what came in the request.
        lenient: ignore keywords that cannot be enforced, where they would be refused.

    Raises:
        ValueError: it is no schema, or over a limit.
    """
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise ValueError(f"expected a JSON schema as an object, but got {schema!r}")
    check_schema(schema)
    return {**schema, "x-guidance": {"whitespace_pattern": WHITE_SPACE, "lenient": lenient}}


def _choices(source: str) -> list[str]:
    choices = _json(source)
    if (
        not isinstance(choices, list)
        or not choices
        or not all(isinstance(choice, str) and choice for choice in choices)
    ):
        raise ValueError(f"expected a list of texts, none of them empty, but got {source}")
    return choices


def _escaped(text: str) -> str:
    """A text as a regular expression that matches nothing else."""
    return re.sub(r"[^\w ]", lambda character: f"\\x{{{ord(character[0]):x}}}", text)


def _json(source: str) -> Any:
    try:
        return json.loads(source)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not valid JSON: {error}") from error


def _refusal(grammar: Grammar, reason: str) -> RequestError:
    name, field = NAMES[grammar.kind]
    return RequestError(f"This {name} cannot be enforced: {_shortened(reason)}", field)


def _shortened(text: str) -> str:
    text = " ".join(text.replace("<non-verbose/>", "").split())
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + " …"

"""Makes an answer match a grammar: a JSON schema, a regular expression, a list of choices or a Lark grammar.

llguidance computes at every step which tokens may come next. A grammar is compiled once, off the stepping thread, and
cached for later requests; each sequence has a copy of its state. llguidance is imported, and reads the tokenizer's
vocabulary, only when the first grammar is compiled.

Invariants:
    1. A row's mask allows at least one token while its grammar is unfinished, and no token that the grammar forbids.
    2. Compiling and every step are bounded in time and memory, whatever the grammar.
"""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from inference.text.grammar_source import (
    SpecialTokens,
    Thought,
    after_thought,
    as_lark,
    source_of,
    unforced,
    with_otherwise,
)
from interface.errors import RequestError, UnsupportedFeature
from interface.requests import Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

MaskRow = NDArray[np.int32]
"""A bit for each token, the lowest bit first: [ceil(vocabulary / 32)]. A set bit allows its token."""


IN_GRAMMAR = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")
"""The beginning of llguidance's messages, with a position in the grammar."""
SHOWN_LINES = re.compile(r"(\n *\d+ \| .*)+", re.DOTALL)
"""The lines of the grammar around that position, at the end of the message."""
TOOL = re.compile(r"^// (.+)$", re.MULTILINE)
"""The comment before a tool's rules in a grammar of tools: its name."""
NOTHING_MATCHES = ("NoExtensionBias", "no text matches it")
"""llguidance's message about a grammar that matches nothing, and its meaning."""
LONGEST_REASON = 500
"""Characters of llguidance's own message that a client is shown."""
SPACED = " a "
"""A text whose first and last spaces some tokenizers leave out."""
PROBED_TOKENS = 4
"""Steps taken while compiling, to find a grammar that is too much for a step before the answer begins."""
NAMES = {
    "json_schema": "JSON schema",
    "regex": "regular expression",
    "choice": "choice",
    "lark": "grammar",
    "tools": "grammar of the tools",
}
"""For each kind of grammar its name in an error."""


class GrammarError(RuntimeError):
    """The grammar does not allow a token; the sequence ends."""


class GrammarState:
    """The state of one sequence in its grammar. The array that `mask` returns is overwritten at the next step."""

    def __init__(self, matcher: "LLMatcher", vocabulary: int) -> None:
        self._matcher = matcher
        self._mask: MaskRow = np.zeros((vocabulary + 31) // 32, dtype=np.int32)

    @property
    def is_finished(self) -> bool:
        """Whether the grammar is complete, so that only an end-of-sequence token could follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def error(self) -> str | None:
        """The reason why the grammar allows no token, if it allows none."""
        if not self._matcher.is_error():
            return None
        return f"The grammar cannot be followed further: {_shortened(self._matcher.get_error())}"

    def mask(self) -> MaskRow:
        """Return the tokens that may come next: none, if computing them exceeds the limits."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if self._matcher.is_error():
            self._mask.fill(0)
        return self._mask

    def advance(self, token_id: int) -> None:
        """Take the token that was chosen.

        Raises:
            GrammarError: the grammar does not allow it.
        """
        self._matcher.consume_token(token_id)
        if (error := self.error) is not None:
            raise GrammarError(error)


class CompiledGrammar:
    """A grammar compiled for one tokenizer. Any thread may start a state."""

    def __init__(self, matcher: "LLMatcher", vocabulary: int, source: str) -> None:
        self._matcher = matcher  # stays at the beginning
        self._vocabulary = vocabulary
        self._source = source

    @property
    def lark(self) -> str:
        """The grammar as one text in llguidance's Lark, for engines elsewhere that have llguidance."""
        first, *others = [(grammar.get("name"), as_lark(grammar)) for grammar in json.loads(self._source)["grammars"]]
        text = first[1]
        for name, lark in others:
            text = text.replace(f"@{name}", f"{name}") + f"\n{name}: %lark {{\n{lark}\n}}"
        return text

    def start(self) -> GrammarState:
        """Return a state at the beginning of the grammar, independent of all others."""
        return GrammarState(self._matcher.deep_copy(), self._vocabulary)


_Key = tuple[Grammar, Thought | None, Grammar | None]


class GrammarCompiler:
    """Compiles grammars for one tokenizer, and keeps the most recently used. Any thread may compile."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocabulary: int, eos_ids: Iterable[int], capacity: int = 64
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._eos_ids = sorted(eos_ids)
        self._capacity = capacity
        self._compiled: OrderedDict[_Key, CompiledGrammar] = OrderedDict()
        self._cache_lock = threading.Lock()
        self._compile_lock = threading.Lock()  # one at a time: several expensive grammars take no more than one core
        self._token_trie: LLTokenizer | None = None
        self._special_tokens: SpecialTokens | None = None

    def compile(
        self, grammar: Grammar, thought: Thought | None = None, otherwise: Grammar | None = None
    ) -> CompiledGrammar:
        """Return the compiled grammar, from the cache if it is there.

        Args:
            grammar: what the answer must match.
            thought: the reasoning that may precede it.
            otherwise: for a grammar of tools, the grammar of an answer without calls.

        Raises:
            UnsupportedFeature: the model's tokenizer cannot be used with grammars.
            RequestError: the grammar cannot be enforced, or is too large; the message names the keyword or the place.
        """
        key = (grammar, thought, otherwise)
        if (compiled := self._cached(key)) is not None:
            return compiled
        with self._compile_lock:
            if (compiled := self._cached(key)) is None:
                compiled = self._compile(grammar, thought, otherwise)
                self._keep(key, compiled)
        return compiled

    def special_tokens(self) -> SpecialTokens:
        """The tokens that a grammar must name by their ids. Raises UnsupportedFeature."""
        with self._compile_lock:
            return self._special()

    def _cached(self, key: _Key) -> CompiledGrammar | None:
        with self._cache_lock:
            if (compiled := self._compiled.get(key)) is not None:
                self._compiled.move_to_end(key)
        return compiled

    def _keep(self, key: _Key, compiled: CompiledGrammar) -> None:
        with self._cache_lock:
            self._compiled[key] = compiled
            while len(self._compiled) > self._capacity:
                self._compiled.popitem(last=False)

    def _compile(self, grammar: Grammar, thought: Thought | None, otherwise: Grammar | None) -> CompiledGrammar:
        trie = self._trie()
        from llguidance import LLMatcher

        source = _checked_source(grammar)
        if otherwise is not None:
            source = with_otherwise(source, _checked_source(otherwise))
        special = self._special()
        if thought is not None:
            source = after_thought(source, thought, special)
        texts = [_text_of(part) for part in (grammar, otherwise) if part]
        if any(token in text for text in texts for token in special) or not self._keeps(texts):
            source = unforced(source)
        matcher = LLMatcher(trie, source, log_level=0, limits=_limits())
        if matcher.is_error():
            raise _refusal(grammar, matcher.get_error())
        compiled = CompiledGrammar(matcher, self._vocabulary, source)
        self._probe(grammar, compiled)
        return compiled

    def _trie(self) -> "LLTokenizer":
        """The vocabulary in llguidance's form, which takes about a tenth of a second to make."""
        if self._token_trie is None:
            from llguidance.hf import from_tokenizer

            tokenizer: Any = self._tokenizer  # not every tokenizer is of the kind that the function says it takes
            try:
                ends = [token_id for token_id in self._eos_ids if token_id < len(tokenizer)]
                self._token_trie = from_tokenizer(tokenizer, self._vocabulary, ends or None)
            except Exception as error:  # a slow tokenizer, or one that llguidance cannot read
                raise UnsupportedFeature(
                    f"Structured output needs a tokenizer of the tokenizers library, not the one of this model: {error}"
                ) from error
        return self._token_trie

    def _keeps(self, texts: Sequence[str]) -> bool:
        """Whether texts come out of their tokens again: some tokenizers add or remove spaces, or compose letters."""
        trie = self._trie()
        encoded = (text.encode(errors="replace") for text in (*texts, SPACED))
        return all(trie.decode_bytes(trie.tokenize_bytes(text)) == text for text in encoded)

    def _special(self) -> SpecialTokens:
        if self._special_tokens is None:
            trie = self._trie()
            added = self._tokenizer.added_tokens_decoder.items()
            self._special_tokens = {
                token.content: token_id for token_id, token in added if trie.is_special_token(token_id)
            }
        return self._special_tokens

    def _probe(self, grammar: Grammar, compiled: CompiledGrammar) -> None:
        """Take a few steps, so that a grammar that exceeds a step's limits is refused, and not broken off later."""
        state = compiled.start()
        for _ in range(PROBED_TOKENS):
            if state.is_finished:
                return
            allowed = np.flatnonzero(np.unpackbits(state.mask().view(np.uint8), bitorder="little"))
            if not allowed.size:
                raise _refusal(grammar, state.error or "no token of the vocabulary can continue it")
            try:
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


def _text_of(grammar: Grammar) -> str:
    """What a grammar's author wrote, with the characters themselves where JSON escapes them."""
    is_json = grammar.kind in ("json_schema", "choice")
    return json.dumps(json.loads(grammar.source), ensure_ascii=False) if is_json else grammar.source


def _checked_source(grammar: Grammar) -> str:
    """The grammar in the form that llguidance reads. Raises RequestError."""
    try:
        return source_of(grammar)
    except ValueError as error:
        raise _refusal(grammar, str(error)) from error


def _refusal(grammar: Grammar, reason: str) -> RequestError:
    where = "" if grammar.param is None else f"{grammar.param}: "
    if grammar.kind == "tools":
        reason = _without_grammar(grammar.source, reason)
    message = f"{where}This {NAMES[grammar.kind]} cannot be enforced: {_shortened(reason)}"
    return RequestError(message, grammar.param)


def _without_grammar(source: str, reason: str) -> str:
    """Replace the lines of a tools grammar in a reason, which the client has not written, by the tool's name."""
    shown = SHOWN_LINES.search(reason)
    place = re.search(r"^at (\d+)\(", reason)
    rule = (
        re.search(rf"^ *{place[1]} \| (?:rest|value|TEXT)_(\d+)", shown[0], re.MULTILINE) if shown and place else None
    )
    name = dict(enumerate(TOOL.findall(source))).get(int(rule[1])) if rule else None
    which = "" if name is None else f"the parameters of the tool {name!r}: "
    return which + IN_GRAMMAR.sub("", SHOWN_LINES.sub("", reason))


def _shortened(text: str) -> str:
    """A reason of llguidance's in one line, without the server's stack, which a panic has behind it."""
    text = " ".join(text.partition("<backtrace>")[0].replace("<non-verbose/>", "").replace(*NOTHING_MATCHES).split())
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + " …"

"""Decides what the next step works on: which sequences are admitted, which prefill and which decode. No tensors.

Sequences are admitted first come, first served. A step decodes one token for every running sequence and prefills at
most `prefill_chunk` prompt tokens along with them, fewer if those take too long (see `prefill_budget`), so a long
prompt delays the running streams by a bounded time and never stops them. The more sequences with short prompts are
prefilling for each stream that they delay, the more a step takes, and where they outnumber the streams up to four whole
chunks: each step reads all the weights, so one large chunk costs less than several small ones. But it begins no further
prompt once that reading is a small part of its time, so the first of many prompts do not wait for those behind them.

A prompt that begins like another one is computed from where they differ: its beginning is copied from the other's slot.
While the other is still being prefilled, it waits. A step copies a bounded number of tokens, unless the cache shares
them.

A step with few sequences may compute guesses of their next tokens as well (see `speculation`).
"""

import itertools
import math
from collections import abc, deque
from dataclasses import dataclass, field

from inference.scheduling.cache_manager import CacheManager, Retention
from inference.scheduling.prefill_budget import PrefillBudget
from inference.scheduling.sequence import Sequence
from interface.requests import SequenceId

PREFILL_CHUNK, PREFILL_CHUNK_ON_GPU = 128, 2048
"""The default of `prefill_chunk`."""
LEAST_ON_GPU = 512
"""Prompt tokens that a step with a prefill takes at least on a GPU: fewer take as long, because of the launches."""
MAX_CHUNKS = 4
"""How many times `prefill_chunk` a step may prefill when it delays few streams, or none."""
MAX_SCORED = 128
"""Prompt tokens in a chunk whose log probabilities are wanted: the logits take 77 MB with a vocabulary of 150,000."""
MOST_GUESSED = 8
"""Tokens that all decoding sequences together may have in a step with guesses. If there are more than half as many
sequences, nothing is guessed."""
LEAST_AWAITED = 64
"""Prompt tokens that a sequence must save if it is to wait until another one has computed them."""
MOST_COPIED = 4096
"""Tokens after which a step copies no more: the first time, a slot's memory must come from the system, which takes
longer than the copy, and all other sequences wait for it."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of the positions up to `end` from another slot to a sequence's own, before the step computes anything."""

    source: int
    sequence: Sequence
    end: int


@dataclass(frozen=True, slots=True)
class Awaited:
    """Another sequence that is going to compute the first `length` tokens of a prompt."""

    sequence: Sequence
    length: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """The part of a prompt that one step prefills: positions `start` to `end`, the latter not included."""

    sequence: Sequence
    start: int
    end: int

    @property
    def completes_prompt(self) -> bool:
        return self.end == len(self.sequence.prompt_ids)

    @property
    def scored_ids(self) -> abc.Sequence[int]:
        """The prompt token that follows each of the chunk's tokens, if the prompt's log probabilities are wanted."""
        return self.sequence.prompt_ids[self.start + 1 : self.end + 1] if self.sequence.wants_prompt_logprobs else ()


@dataclass(frozen=True, slots=True)
class Schedule:
    """One step's work. Every sequence in `decoding` gets a token, and so does each chunk that completes its prompt."""

    decoding: list[Sequence]
    chunks: list[Chunk]
    copies: list[Copy] = field(default_factory=list)

    @property
    def has_work(self) -> bool:
        return bool(self.decoding or self.chunks)

    @property
    def prompt_tokens(self) -> int:
        return sum(chunk.end - chunk.start for chunk in self.chunks)

    @property
    def sampled(self) -> list[Sequence]:
        """The sequences that get a token or, with guesses, several, in the order of the rows of logits."""
        return self.decoding + [chunk.sequence for chunk in self.chunks if chunk.completes_prompt]

    @property
    def sequences(self) -> list[Sequence]:
        """Every sequence that takes part in the step."""
        prefilling = [*(chunk.sequence for chunk in self.chunks), *(copy.sequence for copy in self.copies)]
        return list(dict.fromkeys([*self.decoding, *prefilling]))


class Scheduler:
    """Owns the queue and the running sequences. A sequence is waiting, running in a slot, or forgotten.

    Args:
        shares_beginnings: a copy takes next to no time, so a step may make any number of them.
    """

    def __init__(
        self,
        slots: int,
        prefill_chunk: int | None,
        retention: Retention,
        is_on_gpu: bool,
        shares_beginnings: bool,
    ) -> None:
        self._prefill_chunk = prefill_chunk or (PREFILL_CHUNK_ON_GPU if is_on_gpu else PREFILL_CHUNK)
        self._prefill_budget = PrefillBudget(LEAST_ON_GPU) if is_on_gpu else PrefillBudget()
        self._is_on_gpu = is_on_gpu  # which computes any number of prompts nearly as fast as one
        self._most_copied = math.inf if shares_beginnings else MOST_COPIED
        self._cache = CacheManager(slots, retention)
        self._waiting: deque[Sequence] = deque()
        self._running: dict[SequenceId, Sequence] = {}
        self._awaited: dict[SequenceId, Awaited] = {}

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def find(self, sequence_id: SequenceId) -> Sequence | None:
        if sequence_id in self._running:
            return self._running[sequence_id]
        return next((sequence for sequence in self._waiting if sequence.sequence_id == sequence_id), None)

    def remove(self, sequence: Sequence, keep_cache: bool = True) -> None:
        """Forget a sequence and free its slot. What the slot holds stays reusable if `keep_cache`."""
        if sequence.is_waiting:
            self._waiting.remove(sequence)
        else:
            del self._running[sequence.sequence_id]
            self._awaited.pop(sequence.sequence_id, None)
            self._cache.free(sequence.slot, sequence.cached_ids if keep_cache else ())

    def schedule(self) -> Schedule:
        """Admit waiting sequences to free slots, and choose the next step's work."""
        copies = list(self._copies())
        running = list(self._running.values())
        decoding = [sequence for sequence in running if sequence.is_prefilled]
        prefilling = [sequence for sequence in running if not sequence.is_prefilled]
        for sequence in decoding:
            sequence.draft(MOST_GUESSED // len(decoding) - 1)
        chunks = list(self._chunks(prefilling, self._step_budget(len(decoding), prefilling)))
        return Schedule(decoding, chunks, copies)

    def record_step(self, schedule: Schedule, seconds: float) -> None:
        """Learn how long a schedule's step took."""
        tokens = sum(1 + len(sequence.draft_ids) for sequence in schedule.decoding)
        self._prefill_budget.record_step(tokens, schedule.prompt_tokens, seconds)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def sequences(self) -> list[Sequence]:
        return [*self._running.values(), *self._waiting]

    def _chunks(self, prefilling: abc.Iterable[Sequence], budget: int) -> abc.Iterator[Chunk]:
        """Divide a step's prompt tokens: to the first prompt all that it can take, to others until they are enough."""
        enough = budget if self._is_on_gpu else self._prefill_budget.enough(budget)
        tokens = 0
        for sequence in prefilling:
            if tokens >= enough:
                return
            if sequence.sequence_id in self._awaited:
                continue
            most = min(budget - tokens, enough) if tokens else budget
            if sequence.wants_prompt_logprobs:
                most = min(most, MAX_SCORED)
            start = sequence.cached_tokens
            end = min(len(sequence.prompt_ids), start + most)
            yield Chunk(sequence, start, end)
            tokens += end - start

    def _step_budget(self, decoding: int, prefilling: abc.Sequence[Sequence]) -> int:
        """Return how many prompt tokens the next step may prefill.

        A single prompt gets what the streams can spare, and as many short prompts as there are streams get a whole
        chunk. A long one gets no more for those behind it: it would delay the streams in many steps.
        """
        if not prefilling:
            return 0
        prompts = len(prefilling)
        if prompts <= decoding:
            spared = self._prefill_budget.tokens(decoding, self._prefill_chunk)
            if not spared or prefilling[0].prompt_tokens_left > self._prefill_chunk:
                return spared
            return spared + (self._prefill_chunk - spared) * (prompts - 1) // max(1, decoding - 1)
        # A chunk, and one more for each prefilling sequence per stream that has to wait for it.
        chunks = 1 + prompts // decoding if decoding else MAX_CHUNKS
        return self._prefill_chunk * min(chunks, MAX_CHUNKS)

    def _copies(self) -> abc.Iterator[Copy]:
        """Admit sequences, and yield the copies to them and to those that waited, up to the limit of a step."""
        tokens = 0
        for copy in itertools.chain(self._copies_awaited(), self._admit()):
            yield copy
            tokens += copy.end
            if tokens >= self._most_copied:
                return  # the others are still waiting at the next step

    def _admit(self) -> abc.Iterator[Copy]:
        """Give free slots to waiting sequences; yield the copies that they need."""
        while self._waiting and self._cache.can_allocate:
            sequence = self._waiting.popleft()
            reuse = not sequence.wants_prompt_logprobs  # the logits of cached tokens are not there
            sequence.admit(*self._cache.allocate(sequence.prompt_ids, reuse))
            self._running[sequence.sequence_id] = sequence
            if reuse:
                yield from self._share(sequence)

    def _copies_awaited(self) -> abc.Iterator[Copy]:
        """Yield the copies whose source has been computed; find another one where the source's sequence has ended."""
        for sequence_id, awaited in list(self._awaited.items()):
            is_running = awaited.sequence.sequence_id in self._running
            if not is_running or awaited.sequence.cached_tokens >= awaited.length:
                del self._awaited[sequence_id]
                yield from self._share(self._running[sequence_id])

    def _share(self, sequence: Sequence) -> abc.Iterator[Copy]:
        """Copy the beginning of a prompt from another slot, or wait for it, if that saves enough."""
        source = self._cache.source_for(sequence.slot, sequence.cached_tokens)
        if source is None:
            return
        owner = next((other for other in self._running.values() if other.slot == source.slot), None)
        if owner is not None and not self._cache.holds(source.slot, source.length, owner.cached_tokens):
            return  # its owner has generated so much that layers with a window have forgotten the beginning
        if owner is None or owner.cached_tokens >= source.length:
            sequence.reuse(source.length)
            self._cache.copy(source.slot, sequence.slot, 0 if owner is None else owner.cached_tokens)
            yield Copy(source.slot, sequence, source.length)
        elif source.length - sequence.cached_tokens >= LEAST_AWAITED:
            self._awaited[sequence.sequence_id] = Awaited(owner, source.length)

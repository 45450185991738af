"""Decides what the next step works on: who gets a slot, whose prompt is prefilled, who decodes.

Requests are admitted in the order of their coming. A step decodes one token for every running request and prefills
at most `prefill_chunk` prompt tokens beside them, fewer if those take too long (see `pace`), so a long prompt delays
the running streams by a bounded time and never stops them. Where prompts outnumber the streams that they delay, it
takes up to four whole chunks: each step reads all the weights, so one large chunk costs less than several small ones.

A free slot still holds what its last request left there. A request gets the slot where it finds the most of its own
prompt and writes over the least of another text, and prefills only the rest: a chat's next turn begins with all of the
turns before. No tensors here.
"""

from collections import deque
from collections.abc import Sequence as Ids
from dataclasses import dataclass

from inference.scheduling.prefill_budget import Pace
from inference.scheduling.sequence import Sequence
from interface.request import RequestId

CHUNKS_AT_ONCE = 4
"""How many times `prefill_chunk` a step may take when it delays nobody, or few."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The part of a prompt that one step prefills: positions `start` to `end`, the latter not included."""

    sequence: Sequence
    start: int
    end: int

    @property
    def completes_prompt(self) -> bool:
        return self.end == len(self.sequence.prompt_ids)


@dataclass(frozen=True, slots=True)
class Schedule:
    """One step's work. Every sequence in `decoding` gets a token, and so does each chunk that completes its prompt."""

    decoding: list[Sequence]
    chunks: list[Chunk]

    @property
    def has_work(self) -> bool:
        return bool(self.decoding or self.chunks)

    @property
    def prompt_tokens(self) -> int:
        return sum(chunk.end - chunk.start for chunk in self.chunks)

    @property
    def sampled(self) -> list[Sequence]:
        """Who gets a token, in the order of the logits' rows."""
        return self.decoding + [chunk.sequence for chunk in self.chunks if chunk.completes_prompt]


class Scheduler:
    """Owns the queue and the slots. A sequence is waiting, or running in a slot, or gone."""

    def __init__(self, slots: int, prefill_chunk: int) -> None:
        self._prefill_chunk = prefill_chunk
        self._pace = Pace()
        # What each free slot holds; the one that has been free for longest comes first.
        self._free_slots: dict[int, Ids[int]] = dict.fromkeys(range(slots), ())
        self._waiting: deque[Sequence] = deque()
        self._running: dict[RequestId, Sequence] = {}

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def find(self, request_id: RequestId) -> Sequence | None:
        if request_id in self._running:
            return self._running[request_id]
        return next((sequence for sequence in self._waiting if sequence.request_id == request_id), None)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence and free its slot."""
        if sequence.slot is None:
            self._waiting.remove(sequence)
        else:
            del self._running[sequence.request_id]
            self._free_slots[sequence.slot] = sequence.held_ids

    def schedule(self) -> Schedule:
        """Admit whom there is a slot for, and choose the next step's work."""
        self._admit()
        running = list(self._running.values())
        decoding = [sequence for sequence in running if sequence.is_prefilled]
        prefilling = [sequence for sequence in running if not sequence.is_prefilled]
        chunks: list[Chunk] = []
        budget = self._prefill_budget(len(decoding), len(prefilling))
        for sequence in prefilling:
            if budget:
                start = sequence.cached_tokens
                end = min(len(sequence.prompt_ids), start + budget)
                chunks.append(Chunk(sequence, start, end))
                budget -= end - start
        return Schedule(decoding, chunks)

    def took(self, schedule: Schedule, seconds: float) -> None:
        """Learn how long a schedule's step took."""
        self._pace.took(len(schedule.decoding), schedule.prompt_tokens, seconds)

    def _prefill_budget(self, decoding: int, prefilling: int) -> int:
        """Prompt tokens for a step."""
        if prefilling <= decoding:
            return self._pace.prompt_tokens(decoding, self._prefill_chunk)
        # A chunk, and one more for each prompt that a stream would have to wait for.
        chunks = 1 + prefilling // decoding if decoding else CHUNKS_AT_ONCE
        return self._prefill_chunk * min(chunks, CHUNKS_AT_ONCE)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def sequences(self) -> list[Sequence]:
        return [*self._running.values(), *self._waiting]

    def _admit(self) -> None:
        while self._waiting and self._free_slots:
            sequence = self._waiting.popleft()
            common = {slot: _common_prefix(held, sequence.prompt_ids) for slot, held in self._free_slots.items()}
            # What is reused counts for a slot, what is written over counts against it; of equals, the first.
            slot = max(common, key=lambda slot: 2 * common[slot] - len(self._free_slots[slot]))
            del self._free_slots[slot]
            # The last token is always computed: its logits choose the first one of the answer.
            sequence.admit(slot, min(common[slot], len(sequence.prompt_ids) - 1))
            self._running[sequence.request_id] = sequence


def _common_prefix(held: Ids[int], prompt: Ids[int]) -> int:
    """How many tokens two texts begin with together."""
    pairs = enumerate(zip(held, prompt, strict=False))
    return next((length for length, (one, other) in pairs if one != other), min(len(held), len(prompt)))

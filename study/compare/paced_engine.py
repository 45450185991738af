"""An engine without a model, whose pace the prompt sets: what is measured then is the door and its server.

    "prefill=30 pace=10 size=4000"    30 steps before the first token, 10 ms a step, tokens of 4000 characters

Left out, each is 0. A request's answer has `max_tokens` tokens. All running requests get one token per step, and a step
lasts as long as the slowest of them asks for.
"""

import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from interface.engine import Counters, ModelInfo, Sink, Tokenized
from interface.events import Event, Finished, FinishReason, Token
from interface.requests import DEFAULT_MAX_TOKENS, EncodedRequest, GenerationRequest, Prompt, SequenceId, TextPrompt


@dataclass
class PacedRequest:
    """One request: how many steps its prefill still takes, and how many tokens it still gets."""

    sequence_id: SequenceId
    sink: Sink
    prefill: int
    seconds_per_step: float
    text: str
    max_tokens: int
    made: int = 0

    def finished(self, reason: FinishReason) -> Finished:
        return Finished(reason, 1, self.made, prefill_ms=1.0, decode_ms=1.0, total_ms=1.0)


class PacedEngine:
    """The methods of `EngineProtocol`; no request waits for a slot."""

    def __init__(self) -> None:
        self._arrivals: deque[PacedRequest | SequenceId] = deque()
        self._running: dict[SequenceId, PacedRequest] = {}
        self._generated_tokens = 0
        self._in_flight = 0
        self._lock = threading.Lock()

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(context=1_000_000, vocabulary=1_000_000, tokenizer={})

    def tokenize(self, prompt: Prompt) -> Tokenized:
        return Tokenized([0], [""])

    def detokenize(self, token_ids: Sequence[int]) -> str:
        return ""

    def encode(self, requests: Sequence[GenerationRequest]) -> list[EncodedRequest]:
        return [EncodedRequest(request, [0], request.params) for request in requests]

    def submit(self, requests: Sequence[EncodedRequest], sink: Sink) -> None:
        with self._lock:
            self._in_flight += len(requests)
        self._arrivals.extend(self._paced(encoded, sink) for encoded in requests)

    def _paced(self, encoded: EncodedRequest, sink: Sink) -> PacedRequest:
        prompt = encoded.request.prompt
        assert isinstance(prompt, TextPrompt)
        settings = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", prompt.text)}
        return PacedRequest(
            encoded.sequence_id,
            sink,
            prefill=settings.get("prefill", 0),
            seconds_per_step=settings.get("pace", 0) / 1000,
            text="x" * settings.get("size", 5),
            max_tokens=encoded.params.max_tokens or DEFAULT_MAX_TOKENS,
        )

    def abort(self, sequence_id: SequenceId) -> None:
        self._arrivals.append(sequence_id)

    def counters(self) -> Counters:
        return Counters(self._in_flight, 0, self._generated_tokens)

    def step(self) -> bool:
        events: dict[Sink, list[tuple[SequenceId, Event]]] = defaultdict(list)
        while self._arrivals:
            arrival = self._arrivals.popleft()
            if isinstance(arrival, PacedRequest):
                self._running[arrival.sequence_id] = arrival
            elif arrival in self._running:
                self._end(self._running[arrival], "abort", events)
        if seconds := max((one.seconds_per_step for one in self._running.values()), default=0):
            time.sleep(seconds)
        for one in list(self._running.values()):
            self._advance(one, events)
        for sink, its_events in events.items():
            sink(its_events)
        return bool(self._arrivals or self._running)

    def _advance(self, one: PacedRequest, events: dict[Sink, list[tuple[SequenceId, Event]]]) -> None:
        if one.prefill > 0:
            one.prefill -= 1
            return
        events[one.sink].append((one.sequence_id, Token(one.text, one.made, ms=1.0, is_first=one.made == 0)))
        one.made += 1
        self._generated_tokens += 1
        if one.made == one.max_tokens:
            self._end(one, "length", events)

    def _end(self, one: PacedRequest, reason: FinishReason, events: dict[Sink, list[tuple[SequenceId, Event]]]) -> None:
        del self._running[one.sequence_id]
        with self._lock:
            self._in_flight -= 1
        events[one.sink].append((one.sequence_id, one.finished(reason)))

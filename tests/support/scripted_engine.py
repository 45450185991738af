"""An engine without a model: it says what its script says, so that the doors' tests need no torch and no luck.

It offers the verbs of `EngineVerbs` with the real engine's manners: a FIFO, one token per running request and step,
aborts in force at the next step. The prompt chooses the script:

    "hello"             the tokens of HELLO
    "count 300"         300 tokens, "0 " to "299 "
    "emoji"             tokens whose texts are empty, then a whole emoji
    "newlines"          a token that holds line breaks
    "drip 300"          the same, with some milliseconds before each
    "flood 300"         300 tokens of 64 KiB each, more than a socket holds
    "explode"           one token, then the step raises

`hold()` keeps every step from making tokens until `release(n)` lets n of them be made for each request.
"""

import itertools
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator

from interface.request import (
    Counters,
    EncodedRequest,
    EngineFailed,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    PromptTooLong,
    QueueFull,
    RequestId,
    Sink,
    Token,
)

CONTEXT = 4096
DRIP = 0.005
"""Seconds before each token of a "drip"."""
HELLO = ["Hello", ",", " world", "!"]


def script(prompt: str) -> list[str]:
    """The texts of the tokens that answer a prompt."""
    match prompt.split():
        case ["count" | "drip", number]:
            return [f"{n} " for n in range(int(number))]
        case ["flood", number]:
            return ["x" * 65536] * int(number)
        case ["emoji"]:
            return ["", "", "", "😀", " 你好"]
        case ["newlines"]:
            return ["one\n\ntwo\r\nthree", "\u2028", "data: x\n\n"]
        case _:
            return HELLO


class Script:
    """One request of the scripted engine."""

    def __init__(self, request_id: RequestId, encoded: EncodedRequest, sink: Sink) -> None:
        self.request_id = request_id
        self.sink = sink
        self.prompt = encoded.request.prompt
        self.prompt_tokens = len(encoded.prompt_ids)
        self.made = 0
        texts = script(self.prompt)
        self.reason: FinishReason = "length" if len(texts) > encoded.request.max_tokens else "stop"
        self.texts: Iterator[str] = iter(texts[: encoded.request.max_tokens])
        self.length = min(len(texts), encoded.request.max_tokens)

    def finished(self, reason: FinishReason) -> Finished:
        return Finished(reason, self.prompt_tokens, self.made, prefill_ms=1.0, decode_ms=1.0, total_ms=2.0)


class ScriptedEngine:
    """See the module's docstring. `aborted` lists the requests whose abort was in force before their end."""

    def __init__(self, slots: int = 16, max_waiting: int = 256) -> None:
        self.slots = slots
        self.capacity = slots + max_waiting
        self.aborted: list[RequestId] = []
        self.prompts: list[str] = []
        self.generated_tokens = 0
        self.steps = 0
        self.stepping_threads: set[int] = set()
        self._ids = itertools.count(1)
        self._lock = threading.Condition()
        self._arrivals: deque[Script | RequestId] = deque()
        self._scripts: dict[RequestId, Script] = {}
        self._failure: str | None = None
        self._allowance: int | None = None

    # --- What a test may do ---------------------------------------------------------------------------------------

    def hold(self) -> None:
        with self._lock:
            self._allowance = 0

    def release(self, steps: int | None = None) -> None:
        """Let `steps` more steps make tokens, or all that come."""
        with self._lock:
            self._allowance = None if steps is None else (self._allowance or 0) + steps
            self._lock.notify_all()

    # --- The verbs ------------------------------------------------------------------------------------------------

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        prompt_ids = list(range(len(request.prompt.split())))
        if len(prompt_ids) + request.max_tokens > CONTEXT:
            raise PromptTooLong(len(prompt_ids), request.max_tokens, CONTEXT)
        return EncodedRequest(request, prompt_ids)

    def submit(self, encoded: EncodedRequest, sink: Sink) -> RequestId:
        with self._lock:
            if self._failure is not None:
                raise EngineFailed(self._failure)
            if len(self._scripts) + len(self._arrivals) >= self.capacity:
                raise QueueFull("the script has no more room")
            one = Script(next(self._ids), encoded, sink)
            self.prompts.append(one.prompt)
            self._arrivals.append(one)
            self._lock.notify_all()
            return one.request_id

    def abort(self, request_id: RequestId) -> None:
        with self._lock:
            self._arrivals.append(request_id)
            self._lock.notify_all()

    def step(self) -> bool:
        self.stepping_threads.add(threading.get_ident())
        events: dict[Sink, list[tuple[RequestId, Event]]] = defaultdict(list)
        with self._lock:
            self._lock.wait_for(lambda: self._allowance != 0 or self._arrivals, timeout=0.5)
            self._take_arrivals(events)
            may_make_tokens = self._allowance != 0
            if self._allowance:
                self._allowance -= 1
        if may_make_tokens:
            self.steps += 1
            for one in list(self._scripts.values())[: self.slots]:
                self._make_token(one, events)
        for sink, its_events in events.items():
            sink(its_events)
        with self._lock:
            return bool(self._arrivals or self._scripts)

    def counters(self) -> Counters:
        in_flight = len(self._scripts)
        running = min(in_flight, self.slots)
        return Counters(running, in_flight - running, self.generated_tokens)

    def _take_arrivals(self, events: dict[Sink, list[tuple[RequestId, Event]]]) -> None:
        while self._arrivals:
            arrival = self._arrivals.popleft()
            if isinstance(arrival, Script):
                self._scripts[arrival.request_id] = arrival
            elif arrival in self._scripts:
                one = self._scripts.pop(arrival)
                self.aborted.append(arrival)
                events[one.sink].append((arrival, one.finished("abort")))

    def _make_token(self, one: Script, events: dict[Sink, list[tuple[RequestId, Event]]]) -> None:
        if one.prompt == "explode" and one.made == 1:
            self._explode()
        if one.prompt.startswith("drip"):
            time.sleep(DRIP)
        token = Token(next(one.texts), one.made, ms=1.0, is_first=one.made == 0)
        one.made += 1
        self.generated_tokens += 1
        events[one.sink].append((one.request_id, token))
        if one.made == one.length:
            del self._scripts[one.request_id]
            events[one.sink].append((one.request_id, one.finished(one.reason)))

    def _explode(self) -> None:
        with self._lock:
            self._failure = "RuntimeError: the script says so"
            scripts, self._scripts = self._scripts, {}
        for one in scripts.values():
            one.sink([(one.request_id, Failed(self._failure, "engine_error"))])
        raise EngineFailed(self._failure)

"""Replicas of an engine, simulated with simpy: they take as long as our engine was measured to take.

The figures are those of docs/engine-speed.md, "How cost grows": the 135M shape, compiled.
"""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

SLOTS = 16
CHUNK = 128
"""Prompt tokens of a step, as ENGINE_PREFILL_CHUNK has it."""
SECONDS_PER_PROMPT_TOKEN = 0.36e-3
"""Of a prompt of about a thousand tokens."""
STEP_SECONDS = {0: 0.0, 1: 6.7e-3, 2: 6.7e-3, 4: 7.1e-3, 8: 8.9e-3, 16: 10.7e-3}
"""Seconds of a step by the number of streams, the median gap; values in between are interpolated."""
SYSTEM = 600
"""Tokens of a system prompt."""

Process = Generator[simpy.Event, Any, None]


@dataclass(eq=False)
class Request:
    """A turn of a conversation."""

    session: int
    system: int
    prompt: int
    """Its tokens: the system prompt, what was said before, and the question."""
    answer: int
    asked_at: float
    done: simpy.Event
    cached: int = 0
    to_prefill: int = 0
    to_decode: int = 0
    """Tokens still to come after the first one, which comes with the end of the prompt."""
    first_token_at: float | None = None
    ends: int = 0
    """How often the request has ended, which should be once."""


@dataclass(eq=False)
class Slot:
    """A row of the cache, and whose text is in it."""

    request: Request | None = None
    system: int | None = None
    session: int | None = None
    tokens: int = 0
    used_at: float = -1.0

    def common(self, request: Request) -> int:
        """The length of the common beginning of a prompt and the slot's text."""
        if self.session == request.session:
            return min(self.tokens, request.prompt - 1)
        return SYSTEM if self.system == request.system else 0


def step_seconds(streams: int) -> float:
    """The time of a step, from what was measured."""
    below = max(measured for measured in STEP_SECONDS if measured <= streams)
    above = min(measured for measured in STEP_SECONDS if measured >= streams)
    part = (streams - below) / (above - below) if above > below else 0.0
    return STEP_SECONDS[below] + part * (STEP_SECONDS[above] - STEP_SECONDS[below])


class Replica:
    """A machine: first come first served, prompts in chunks, all streams in each step, and a cache in its slots."""

    def __init__(self, env: simpy.Environment) -> None:
        self.open = 0
        self.busy = 0.0
        self.most_running = 0
        self._env = env
        self._waiting: deque[Request] = deque()
        self._prefilling: deque[Request] = deque()
        self._decoding: list[Request] = []
        self._slots = [Slot() for _ in range(SLOTS)]
        self._arrival = env.event()
        env.process(self._run())

    def submit(self, request: Request) -> None:
        self.open += 1
        self._waiting.append(request)
        if not self._arrival.triggered:
            self._arrival.succeed()

    def _run(self) -> Process:
        while True:
            if not (self._waiting or self._prefilling or self._decoding):
                yield self._next_arrival()
            self._admit()
            began = self._env.now
            if self._prefilling:
                yield from self._prefill_step()
            else:
                yield from self._decode_steps()
            self.busy += self._env.now - began

    def _next_arrival(self) -> simpy.Event:
        self._arrival = self._env.event()
        return self._arrival

    def _admit(self) -> None:
        """Give a conversation the free slot that it had, or else the one not used for longest."""
        while self._waiting and (free := [slot for slot in self._slots if slot.request is None]):
            request = self._waiting.popleft()
            request.cached = max(slot.common(request) for slot in self._slots)
            request.to_prefill, request.to_decode = request.prompt - request.cached, request.answer - 1
            slot = min(free, key=lambda candidate: (candidate.session != request.session, candidate.used_at))
            slot.request, slot.system, slot.session = request, request.system, request.session
            slot.tokens = request.prompt + request.answer
            self._prefilling.append(request)
        self.most_running = max(self.most_running, sum(slot.request is not None for slot in self._slots))

    def _prefill_step(self) -> Process:
        """A chunk of the first prompt, and a token of every stream."""
        request = self._prefilling[0]
        chunk = min(CHUNK, request.to_prefill)
        yield self._env.timeout(chunk * SECONDS_PER_PROMPT_TOKEN + step_seconds(len(self._decoding)))
        self._decode(1)
        request.to_prefill -= chunk
        if request.to_prefill == 0:
            self._prefilling.popleft()
            self._decoding.append(request)
            request.first_token_at = self._env.now

    def _decode_steps(self) -> Process:
        """Steps without a prompt, until the first stream ends or a request comes."""
        steps = min(request.to_decode for request in self._decoding)
        seconds = step_seconds(len(self._decoding))
        began = self._env.now
        yield self._env.timeout(steps * seconds) | self._next_arrival()
        made = min(steps, int((self._env.now - began) / seconds) + 1)  # the step that has begun is made to its end
        yield self._env.timeout(max(0.0, began + made * seconds - self._env.now))
        self._decode(made)

    def _decode(self, steps: int) -> None:
        for request in self._decoding:
            request.to_decode = max(0, request.to_decode - steps)  # an answer of one token has none left
        for request in [candidate for candidate in self._decoding if candidate.to_decode == 0]:
            self._decoding.remove(request)
            slot = next(slot for slot in self._slots if slot.request is request)
            slot.request, slot.used_at = None, self._env.now
            request.ends += 1
            self.open -= 1
            request.done.succeed()

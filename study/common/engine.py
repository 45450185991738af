"""An engine without a model, whose tokens come from a script: for tests without torch and without randomness, and for
benchmarks of everything but the model.

It has the methods of `EngineProtocol` and behaves as the real engine: a queue, one token per running request and step,
aborts in force at the next step. The prompt chooses the script:

    "hello"             the tokens of HELLO
    "count 300"         300 tokens, "0 " to "299 "
    "emoji"             tokens whose texts are empty, then a whole emoji
    "newlines"          a token that holds line breaks
    "drip 300"          the same, with some milliseconds before each step
    "flood 300"         300 tokens of 64 KiB each, more than a socket holds
    "explode"           one token, then the step raises
    "say some words"    "some words", in tokens of three characters
    "think 4"           three tokens of reasoning, then "4", if the response is parsed
    "call add {…}"      a call of that tool, if the response is parsed; so does a prompt that has to call a tool
    "prefill=30 pace=10 size=4000"
                        as many tokens as asked for, of 4000 characters each, after 30 steps without one, in steps of
                        10 ms; what is left out is 0 steps, 0 ms and 5 characters
    "sleep 0.4"         the tokens of HELLO, after tokenizing for so many seconds

A step lasts as long as the slowest request in it asks for, and at least `seconds_per_step`.
`hold()` keeps every step from making tokens until `release(n)` lets n of them be made for each request.
"""

import os
import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from config import Config
from interface.engine import Counters, ModelInfo, Sink, Tokenized
from interface.errors import EngineFailed, PromptTooLong, QueueFull
from interface.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    Logprobs,
    Part,
    PromptEcho,
    TextPart,
    Token,
    TokenLogprob,
    ToolCallPart,
)
from interface.requests import (
    DEFAULT_MAX_TOKENS,
    ChatPrompt,
    EncodedRequest,
    GenerationRequest,
    Prompt,
    SequenceId,
    SettledParams,
    TextPrompt,
    TokenPrompt,
)

CONTEXT = 4096
UNBOUNDED = 1_000_000
"""A context and a number of slots for measurements, larger than any request needs."""
DRIP = 0.005
"""Seconds of each step of a "drip"."""
HELLO = ["Hello", ",", " world", "!"]


def script(prompt: str, max_tokens: int) -> Sequence[str]:
    """The texts of the tokens that answer a prompt."""
    if settings := settings_of(prompt):
        return ["x" * int(settings.get("size", 5))] * max_tokens
    match prompt.split():
        case ["count" | "drip", number]:
            return [f"{n} " for n in range(int(number))]
        case ["flood", number]:
            return ["x" * 65536] * int(number)
        case ["emoji"]:
            return ["", "", "", "😀", " 你好"]
        case ["newlines"]:
            return ["one\n\ntwo\r\nthree", "\u2028", "data: x\n\n"]
        case ["say", *_]:
            text = prompt.removeprefix("say ")
            return [text[start : start + 3] for start in range(0, len(text), 3)]
        case _:
            return HELLO


def parsed_script(prompt: Prompt, max_tokens: int) -> list[tuple[Part, ...]]:
    """The parts of the tokens that answer a prompt whose response is parsed."""
    text = text_of(prompt)
    forced = forced_tool(prompt)
    match text.split():
        case ["think", *words]:
            thoughts = [(TextPart("reasoning", f"{word} "),) for word in ("Let", "me", "see")]
            return [*thoughts, (TextPart("content", " ".join(words)),)]
        case ["call", name, *_] if forced in (None, name):
            return [(), (ToolCallPart(name, text.split(maxsplit=2)[2] if len(text.split()) > 2 else "{}"),)]
        case _ if forced is not None:
            return [(ToolCallPart(forced, "{}"),)]
    return [(TextPart("content", token),) if token else () for token in script(text, max_tokens)]


def forced_tool(prompt: Prompt) -> str | None:
    """The tool that a prompt must call, if there is one."""
    if not isinstance(prompt, ChatPrompt) or not prompt.tools:
        return None
    return prompt.named_tool or (prompt.tools[0]["function"]["name"] if prompt.tool_choice == "required" else None)


def logprobs_of(token_id: int, text: str, alternatives: int) -> Logprobs:
    """A token's made-up log probability, and those of alternatives, itself among them."""
    tokens = [TokenLogprob(token_id, text, text.encode(), -0.5)]
    tokens += [TokenLogprob(900 + n, f"alt{n}", f"alt{n}".encode(), -1.0 - n) for n in range(alternatives)]
    return Logprobs(tokens[0], tuple(tokens[:alternatives]))


def echo_of(encoded: EncodedRequest, prompt: str) -> PromptEcho:
    """The prompt, a token per word; the first one has no log probability."""
    alternatives = encoded.params.logprobs or 0
    words = re.findall(r"\S+\s*", prompt)
    tokens = [logprobs_of(token_id, word, alternatives) for token_id, word in enumerate(words)]
    first = [Logprobs(replace(token.chosen, logprob=None)) for token in tokens[:1]]  # none of an empty prompt
    return PromptEcho(prompt, (*first, *tokens[1:]), encoded.request.index)


def settings_of(prompt: str) -> dict[str, float]:
    """The pace that a prompt asks for; empty if it chooses a script."""
    return {name: float(number) for name, number in re.findall(r"\b(prefill|pace|size)=(\d+)", prompt)}


def text_of(prompt: Prompt) -> str:
    """A prompt as the words that choose a script; of a conversation, the last message's content."""
    match prompt:
        case TextPrompt():
            return prompt.text
        case TokenPrompt():
            return " ".join(map(str, prompt.token_ids))
        case _:
            return str(prompt.messages[-1].get("content", ""))


def words_of(prompt: Prompt) -> list[str]:
    """A prompt's words, which are its tokens. A "sleep" prompt takes time here."""
    words = text_of(prompt).split()
    if words[:1] == ["sleep"]:
        time.sleep(float(words[1]))
    return words


class Script:
    """One request of the scripted engine."""

    def __init__(self, encoded: EncodedRequest, sink: Sink) -> None:
        self.sequence_id = encoded.sequence_id
        self.index = encoded.request.index
        self.sink = sink
        self.prompt = text_of(encoded.request.prompt)
        self.prompt_tokens = len(encoded.prompt_ids)
        self.made = 0
        settings = settings_of(self.prompt)
        self.prefill_steps = settings.get("prefill", 0)
        self.seconds_per_step = DRIP if self.prompt.startswith("drip") else settings.get("pace", 0) / 1000
        max_tokens = encoded.params.max_tokens
        texts: Sequence[str | tuple[Part, ...]] = (
            parsed_script(encoded.request.prompt, max_tokens)
            if encoded.request.parse_response
            else script(self.prompt, max_tokens)
        )
        self.reason: FinishReason = "length" if settings or len(texts) > max_tokens else "stop"
        self.texts: Iterator[str | tuple[Part, ...]] = iter(texts[:max_tokens])
        self.length = min(len(texts), max_tokens)
        self.alternatives = encoded.params.logprobs
        self.echo = echo_of(encoded, self.prompt) if encoded.request.echo else None
        self.reasoning_tokens = 0

    def next_token(self) -> Token:
        text, number = next(self.texts), self.made
        self.made += 1
        token = Token("", number, 1.0, number == 0, self.index)
        if isinstance(text, str):
            token.text = text
        else:
            token.text, token.parts = "".join(part.text for part in text if isinstance(part, TextPart)), text
            self.reasoning_tokens += any(isinstance(part, TextPart) and part.kind == "reasoning" for part in text)
        if self.alternatives is not None:
            token.logprobs = logprobs_of(number, token.text, self.alternatives)
        return token

    def finished(self, reason: FinishReason) -> Finished:
        return Finished(
            reason,
            self.prompt_tokens,
            self.made,
            prefill_ms=1.0,
            decode_ms=1.0,
            total_ms=2.0,
            reasoning_tokens=self.reasoning_tokens,
            index=self.index,
        )


class ScriptedEngine:
    """See the module's docstring. `aborted` lists the numbers of the sequences whose abort was in force before
    their end; `numbers` counts the sequences from 1, as they were submitted."""

    def __init__(
        self, slots: int = 16, max_waiting: int = 256, context: int = CONTEXT, seconds_per_step: float = 0.0
    ) -> None:
        self.slots = slots
        self.capacity = slots + max_waiting
        self.context = context
        self.seconds_per_step = seconds_per_step
        self.aborted: list[int] = []
        self.numbers: dict[SequenceId, int] = {}
        self.prompts: list[str] = []
        self.generated_tokens = 0
        self.steps = 0
        self.stepping_threads: set[int] = set()
        self._lock = threading.Condition()
        self._arrivals: deque[Script | SequenceId] = deque()
        self._scripts: dict[SequenceId, Script] = {}
        self._failure: str | None = None
        self._allowance: int | None = None

    # --- For tests ------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        with self._lock:
            self._allowance = 0

    def release(self, steps: int | None = None) -> None:
        """Let `steps` more steps make tokens, or all that come."""
        with self._lock:
            self._allowance = None if steps is None else (self._allowance or 0) + steps
            self._lock.notify_all()

    # --- The engine's methods -------------------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(self.context, vocabulary=1000, tokenizer={"tokenizer_class": "Scripted"})

    def encode(self, requests: Sequence[GenerationRequest]) -> list[EncodedRequest]:
        return [self._encode(request) for request in requests]

    def submit(self, requests: Sequence[EncodedRequest], sink: Sink) -> None:
        with self._lock:
            if self._failure is not None:
                raise EngineFailed(self._failure)
            arriving = sum(isinstance(arrival, Script) for arrival in self._arrivals)  # the others are aborts
            if len(self._scripts) + arriving + len(requests) > self.capacity:
                raise QueueFull("the script has no more room")
            scripts = [Script(encoded, sink) for encoded in requests]
            self.prompts += [script.prompt for script in scripts]
            self._arrivals += scripts
            for script in scripts:
                self.numbers[script.sequence_id] = len(self.numbers) + 1
            self._lock.notify_all()

    def abort(self, sequence_id: SequenceId) -> None:
        with self._lock:
            self._arrivals.append(sequence_id)
            self._lock.notify_all()

    def step(self) -> bool:
        self.stepping_threads.add(threading.get_ident())
        events: dict[Sink, list[tuple[SequenceId, Event]]] = defaultdict(list)
        with self._lock:
            if self._allowance == 0:
                self._lock.wait_for(lambda: self._allowance != 0 or self._arrivals, timeout=0.5)
            self._take_arrivals(events)
            may_make_tokens = self._allowance != 0
            if self._allowance:
                self._allowance -= 1
        if may_make_tokens:
            self.steps += 1
            running = list(islice(self._scripts.values(), self.slots))
            self._take_time(running)
            for script in running:
                self._advance(script, events)
        for sink, sink_events in events.items():
            sink(sink_events)
        return bool(self._arrivals or self._scripts)

    def counters(self) -> Counters:
        in_flight = len(self._scripts)
        running = min(in_flight, self.slots)
        return Counters(running, in_flight - running, self.generated_tokens)

    def tokenize(self, prompt: Prompt) -> Tokenized:
        words = words_of(prompt)
        return Tokenized(list(range(len(words))), words)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        return " ".join(map(str, token_ids))

    def _encode(self, request: GenerationRequest) -> EncodedRequest:
        prompt_ids = list(range(len(words_of(request.prompt))))
        room = self.context - len(prompt_ids)
        max_tokens = request.params.max_tokens
        if max_tokens is None:
            max_tokens = min(room, room if request.fill_context else DEFAULT_MAX_TOKENS)
        elif request.clamp_max_tokens:
            max_tokens = min(room, max_tokens)
        if room < 1 or max_tokens > room:
            raise PromptTooLong(len(prompt_ids), max_tokens, self.context)
        return EncodedRequest(request, prompt_ids, SettledParams.of(request.params, max_tokens))

    def _take_arrivals(self, events: dict[Sink, list[tuple[SequenceId, Event]]]) -> None:
        while self._arrivals:
            arrival = self._arrivals.popleft()
            if isinstance(arrival, Script):
                self._scripts[arrival.sequence_id] = arrival
            elif arrival in self._scripts:
                script = self._scripts.pop(arrival)
                self.aborted.append(self.numbers[arrival])
                events[script.sink].append((arrival, script.finished("abort")))

    def _take_time(self, running: Sequence[Script]) -> None:
        if seconds := max([self.seconds_per_step, *[script.seconds_per_step for script in running]]):
            time.sleep(seconds)

    def _advance(self, script: Script, events: dict[Sink, list[tuple[SequenceId, Event]]]) -> None:
        sink_events = events[script.sink]
        if script.made < 2:  # measurements make thousands of tokens after these
            if script.prefill_steps > 0:
                script.prefill_steps -= 1
                return
            if script.prompt == "explode" and script.made == 1:
                self._explode()
            if script.echo is not None and script.made == 0:
                sink_events.append((script.sequence_id, script.echo))
        sink_events.append((script.sequence_id, script.next_token()))
        self.generated_tokens += 1
        if script.made == script.length:
            del self._scripts[script.sequence_id]
            sink_events.append((script.sequence_id, script.finished(script.reason)))

    def _explode(self) -> None:
        with self._lock:
            self._failure = "RuntimeError: the script says so"
            scripts, self._scripts = self._scripts, {}
        for script in scripts.values():
            script.sink([(script.sequence_id, Failed(self._failure, "engine_error", script.index))])
        raise EngineFailed(self._failure)


def instant_engine() -> ScriptedEngine:
    """An engine for measurements: no request waits for a slot, and a step takes no time unless a prompt asks for it."""
    return ScriptedEngine(slots=UNBOUNDED, context=UNBOUNDED)


def load_paced(config: Config) -> ScriptedEngine:
    """For `--load study.common.engine:load_paced`: a step takes PACE seconds."""
    return ScriptedEngine(seconds_per_step=float(os.environ.get("PACE", "0.02")))

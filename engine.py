"""The inference engine: any number of requests, one batch, one token for each of them per step.

    engine = Engine.load(Config())
    engine.generate("What is 2 + 2?", temperature=0)["text"]
    for event in engine.generate_stream("Tell me a story about a fox", max_tokens=200):
        print(event.get("token", ""), end="", flush=True)

Any thread may call any method. Requests and aborts travel through one FIFO, in their order, and take effect when the
next step begins; a step is run by one thread at a time, whoever's turn it is, and only that thread touches a
sequence or the scheduler. No thread drives the engine: whoever wants events either steps, or waits while another
caller steps. Only what a step computes is computed on one thread, always the same (see `tensor_thread`).

Invariants:
    1. Every submitted request ends in exactly one terminal event: `Finished` or `Failed`.
    2. The joined text of its tokens is the tokenizer's decode of their ids, up to the stop string if one was met.
    3. An abort is in force at the next step, wherever the request is; nobody else notices.
    4. Greedy output in float32 is that of transformers' own `generate`, alone and in company.
    5. If a step raises, every request in flight gets `Failed`, and no more are taken.
"""

import itertools
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Ids
from typing import Any

from transformers import PreTrainedTokenizerBase

from config import Config
from inference.model_runner import ModelRunner
from inference.sampler import sample
from inference.scheduling.scheduler import Schedule, Scheduler
from inference.scheduling.sequence import Sequence
from inference.tensor_thread import on_tensor_thread
from inference.weights.checkpoint import Checkpoint, load_checkpoint
from interface.request import (
    Counters,
    EncodedRequest,
    EngineFailed,
    Event,
    Failed,
    Finished,
    GenerationRequest,
    PromptTooLong,
    QueueFull,
    RequestId,
    Sink,
    Token,
    UnusablePrompt,
    answer,
    payload,
)

log = logging.getLogger("engine")


class Engine:
    """A model, its cache and the requests in flight."""

    @classmethod
    def load(cls, config: Config) -> "Engine":
        """Load the model that `config` names.

        Raises:
            LoadError, UnsupportedModel: it cannot be served; the message says why.
        """
        return cls(on_tensor_thread(lambda: load_checkpoint(config)), config)

    def __init__(self, checkpoint: Checkpoint, config: Config) -> None:
        self.context = checkpoint.context
        self._tokenizer: PreTrainedTokenizerBase = checkpoint.tokenizer
        self._eos_ids = checkpoint.eos_ids
        self._capacity = config.max_streams + config.max_waiting
        self._runner = on_tensor_thread(
            lambda: ModelRunner(
                checkpoint.model, config.max_streams, checkpoint.context, config.compile, config.quantize
            )
        )
        self._scheduler = Scheduler(config.max_streams, config.prefill_chunk)
        self._request_ids = itertools.count(1)
        self._generated_tokens = 0
        # What other threads share with the stepping one, guarded by `_turn`.
        self._turn = threading.Condition()
        self._is_stepping = False
        self._arrivals: deque[Sequence | RequestId] = deque()  # submits and aborts, in order
        self._in_flight = 0
        self._failure: str | None = None
        # The events of the step being run; only the stepping thread touches them.
        self._events: dict[Sink, list[tuple[RequestId, Event]]] = defaultdict(list)

    # --- What any thread may ask ----------------------------------------------------------------------------------

    def encode(self, request: GenerationRequest) -> EncodedRequest:
        """Tokenize the prompt, with the tokens that the tokenizer puts around a text.

        Raises:
            PromptTooLong: it does not fit the context together with its max_tokens.
            UnusablePrompt: the model has no token for it.
        """
        # A list of one: tokenizers lets go of the interpreter's lock only for lists.
        prompt_ids: list[int] = self._tokenizer([request.prompt])["input_ids"][0]
        if len(prompt_ids) + request.max_tokens > self.context:
            raise PromptTooLong(len(prompt_ids), request.max_tokens, self.context)
        if not prompt_ids:
            raise UnusablePrompt("The prompt has no tokens: the model's tokenizer knows none of its characters.")
        if max(prompt_ids) >= self._runner.vocabulary:
            raise UnusablePrompt(
                f"The prompt has token {max(prompt_ids)}; the model knows those below {self._runner.vocabulary}."
            )
        return EncodedRequest(request, prompt_ids)

    def submit(self, encoded: EncodedRequest, sink: Sink) -> RequestId:
        """Queue a request without waiting. Its events go to `sink`, called by the thread that steps.

        Raises:
            QueueFull: `max_streams` and `max_waiting` are both used up.
            EngineFailed: a step raised before.
        """
        sequence = Sequence(next(self._request_ids), encoded, sink, self._decode, self._eos_ids)
        with self._turn:
            if self._failure is not None:
                raise EngineFailed(self._failure)
            if self._in_flight >= self._capacity:
                raise QueueFull(f"{self._in_flight} requests are running or waiting, and that is the limit")
            self._in_flight += 1
            self._arrivals.append(sequence)
        return sequence.request_id

    def abort(self, request_id: RequestId) -> None:
        """End a request at the next step; one that is unknown or has ended is left alone."""
        with self._turn:
            self._arrivals.append(request_id)

    def counters(self) -> Counters:
        running = self._scheduler.running
        return Counters(running, max(0, self._in_flight - running), self._generated_tokens)

    def step(self) -> bool:
        """Bring every running request one token further, once no other thread is stepping.

        Returns:
            Whether there is more to do.

        Raises:
            EngineFailed: a step raised, this one or one before; every request in flight has got its `Failed`.
        """
        with self._turn:
            self._turn.wait_for(lambda: not self._is_stepping)
            if self._failure is not None:
                raise EngineFailed(self._failure)
            self._is_stepping = True
        return self._pass_on_after(self._step)

    # --- For synchronous callers ----------------------------------------------------------------------------------

    def generate(self, prompt: str, **settings: Any) -> dict[str, Any]:
        """Generate a whole answer; `settings` are the fields of `GenerationRequest`.

        Returns:
            What `POST /generate` answers without `stream`.

        Raises:
            ValueError: a setting is out of range, or the prompt too long or unusable.
            QueueFull, EngineFailed: see `submit` and `step`.
        """
        tokens: list[Token] = []
        for event in self._run(prompt, settings):
            if isinstance(event, Token):
                tokens.append(event)
        assert isinstance(event, Finished)
        return answer(tokens, event)

    def generate_stream(self, prompt: str, **settings: Any) -> Iterator[dict[str, Any]]:
        """The same, yielding what the stream of `POST /generate` sends: a dict per token, then a closing one.

        Closing the iterator early aborts the request.
        """
        for event in self._run(prompt, settings):
            yield payload(event)

    def _run(self, prompt: str, settings: dict[str, Any]) -> Iterator[Token | Finished]:
        encoded = self.encode(GenerationRequest(prompt=prompt, **settings))
        mailbox: deque[tuple[RequestId, Event]] = deque()
        request_id = self.submit(encoded, mailbox.extend)
        try:
            event: Event | None = None
            while not isinstance(event, Finished):
                self._wait_for_events(mailbox)
                _, event = mailbox.popleft()
                if isinstance(event, Failed):
                    raise EngineFailed(event.message)
                yield event
        finally:
            self.abort(request_id)
            self._settle()

    def _wait_for_events(self, mailbox: deque[tuple[RequestId, Event]]) -> None:
        """Return when there is an event in the mailbox, stepping if nobody else does."""
        while not mailbox:
            with self._turn:
                self._turn.wait_for(lambda: mailbox or not self._is_stepping)
                if mailbox:
                    return
                self._is_stepping = True
            self._pass_on_after(self._step)

    def _settle(self) -> None:
        """Take an abort into account at once if nobody is stepping, so that it does not hold a slot until then."""
        with self._turn:
            if self._is_stepping:
                return
            self._is_stepping = True
        self._pass_on_after(self._take_and_deliver)

    # --- The step: only the thread whose turn it is comes here ------------------------------------------------------

    def _pass_on_after(self, work: Callable[[], None]) -> bool:
        """Do this thread's turn, and let the next one have its own; return whether there is more to do."""
        try:
            work()
        except Exception as error:
            self._fail(error)
            raise EngineFailed(self._failure) from error
        finally:
            with self._turn:
                # Asked while nobody else can step: a sequence on its way from the queue to a slot is in neither.
                has_work = bool(self._arrivals or self._scheduler.sequences)
                self._is_stepping = False
                self._turn.notify_all()
        return has_work

    def _step(self) -> None:
        self._take_arrivals()
        schedule = self._scheduler.schedule()
        if schedule.has_work:
            began = time.perf_counter()
            token_ids = on_tensor_thread(lambda: self._run_model(schedule))
            self._scheduler.took(schedule, time.perf_counter() - began)
            self._append(schedule.sampled, token_ids)
        self._deliver()

    def _run_model(self, schedule: Schedule) -> list[int]:
        logits = self._runner.forward(schedule)
        return sample(logits, [sequence.draw() for sequence in schedule.sampled])

    def _take_and_deliver(self) -> None:
        self._take_arrivals()
        self._deliver()

    def _take_arrivals(self) -> None:
        while self._arrivals:
            arrival = self._arrivals.popleft()
            if isinstance(arrival, Sequence):
                self._scheduler.add(arrival)
            elif (sequence := self._scheduler.find(arrival)) is not None:
                self._end(sequence, sequence.finish("abort"))

    def _append(self, sequences: list[Sequence], token_ids: list[int]) -> None:
        for sequence, token_id in zip(sequences, token_ids, strict=True):
            try:
                token, finish_reason = sequence.append(token_id)
            except Exception as error:  # its text cannot be made; the others' can
                log.exception("Request %d failed at token %d", sequence.request_id, token_id)
                self._end(sequence, Failed(f"{type(error).__name__}: {error}", "engine_error"))
                continue
            self._events[sequence.sink].append((sequence.request_id, token))
            if finish_reason is not None:
                self._end(sequence, sequence.finish(finish_reason))
        self._generated_tokens += len(token_ids)

    def _end(self, sequence: Sequence, event: Finished | Failed) -> None:
        self._scheduler.remove(sequence)
        self._events[sequence.sink].append((sequence.request_id, event))
        with self._turn:
            self._in_flight -= 1

    def _deliver(self) -> None:
        events, self._events = self._events, defaultdict(list)
        for sink, its_events in events.items():
            try:
                sink(its_events)
            except Exception:
                log.exception("A sink raised; its requests end here")
                self._arrivals.extend(request_id for request_id, _ in its_events)  # an abort of each

    def _fail(self, error: Exception) -> None:
        """Take no more requests, and tell every one in flight."""
        log.exception("A step raised; the engine stops")
        with self._turn:
            self._failure = f"{type(error).__name__}: {error}"
            self._take_arrivals()
        for sequence in self._scheduler.sequences:
            self._end(sequence, Failed(self._failure, "engine_error"))
        self._deliver()

    def _decode(self, token_ids: Ids[int]) -> str:
        text = self._tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)  # a list of texts comes only for a list of lists
        return text

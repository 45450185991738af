"""The inference engine: any number of sequences, one batch, a token or more for each of them per step.

    engine = Engine.load(Config())
    engine.generate("What is 2 + 2?", temperature=0)["text"]
    for event in engine.generate_stream("Tell me a story about a fox", max_tokens=200):
        print(event.get("token", ""), end="", flush=True)

`step` is the whole story: take arrivals, schedule, run the model, sample, emit. Requests and aborts from any thread
travel through one queue, in their order, and take effect when the next step begins. One thread at a time steps: a
driver's worker thread, or the synchronous callers in turn (`inference.turns`).

Invariants:
    1. Every submitted sequence ends in exactly one terminal event: `Finished` or `Failed`.
    2. The joined text of its tokens is the tokenizer's decode of their ids (of a text that is continued, what they add
       to its decode), up to the stop string if one was met.
    3. An abort is in force at the next step, wherever the sequence is; its neighbours notice nothing.
    4. Greedy output in float32 is that of transformers' own `generate`, alone and in any batch.
    5. If a step raises, the sequences in it get `Failed`, and the engine goes on. After several such steps in a row
       it has failed for good: every sequence gets `Failed`, and no more are taken.
"""

import logging
import threading
import time
from collections import abc, defaultdict, deque
from contextlib import closing
from dataclasses import asdict
from typing import Any

from config import EngineSettings
from inference.model_runner import ModelRunner
from inference.sampling.sampler import Sampled
from inference.scheduling.sample_args import RowLogprobs
from inference.scheduling.scheduler import Schedule, Scheduler
from inference.scheduling.sequence import Sequence
from inference.tensor_thread import on_tensor_thread
from inference.text.grammar import GrammarError
from inference.text.text_side import TextSide
from inference.turns import Turns
from inference.weights.checkpoint import Checkpoint, load_checkpoint
from interface.completion import completion, stream_event
from interface.engine import Counters, ModelInfo, Sink, Tokenized
from interface.errors import EngineFailed, UnsupportedModel, check_room
from interface.events import Event, Failed, Finished, PromptEcho, Token
from interface.requests import EncodedRequest, GenerationRequest, Prompt, SamplingParams, SequenceId, text_request

log = logging.getLogger("engine")

MAX_FAILED_STEPS = 3
"""This many steps in a row that raise mean that the engine, or its device, will not recover."""
BROKEN = "The model's logits are not finite numbers (NaN or infinite), or every token is banned."
NOTHING = Sampled([], {}, frozenset())


class Engine:
    """A model, its cache, and the sequences in flight."""

    @classmethod
    def load(cls, config: EngineSettings) -> "Engine":
        """Load the model that `config` names.

        Raises:
            LoadError, UnsupportedModel: it cannot be served; the message says why.
        """
        checkpoint = on_tensor_thread(lambda: load_checkpoint(config))
        try:
            return cls(checkpoint, config)
        except UnsupportedModel as error:
            raise UnsupportedModel(f"{config.model}: {error}") from error

    def __init__(self, checkpoint: Checkpoint, config: EngineSettings) -> None:
        self._capacity = config.max_streams + config.max_waiting
        self._runner = on_tensor_thread(
            lambda: ModelRunner(
                checkpoint.model, config.max_streams, checkpoint.context, config.is_compiled, config.quantize
            )
        )
        self._speculates = config.speculate is not None and self._runner.has_same_bits
        if config.speculate is not None and not self._speculates:
            log.warning(
                "No tokens are guessed: a step of several tokens may round differently here than steps of one. "
                "Expected a Llama-type model with ENGINE_COMPILE=1, on a CPU without AMX."
            )
        self._scheduler = Scheduler(
            config.max_streams,
            config.prefill_chunk,
            self._runner.retention,
            self._runner.is_on_gpu,
            self._runner.shares_beginnings,
        )
        self._text = TextSide(checkpoint.tokenizer, checkpoint.context, self._runner.vocabulary, checkpoint.generation)
        self._bans = checkpoint.bans.below(self._runner.vocabulary)
        self.turns = Turns(self.step)
        # Other threads share these with the stepping one.
        self._lock = threading.Lock()
        self._arrivals: deque[Sequence | SequenceId] = deque()  # submits and aborts, in order
        self._in_flight = 0
        self._failure: str | None = None
        # Only the stepping thread touches these.
        self._events: dict[Sink, list[tuple[SequenceId, Event]]] = defaultdict(list)
        self._generated_tokens = 0
        self._guesses = self._true_guesses = 0
        self._failed_steps = 0
        self._all_failed_steps = 0

    # --- The step ---------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Bring every running sequence at least one token further; return whether there is more to do.

        Raises:
            EngineFailed: the engine has failed for good. Every sequence has had its terminal event.
        """
        self._take_arrivals()
        schedule = self._scheduler.schedule()
        try:
            sampled = self._run(schedule)
        except Exception as error:
            self._fail_step(schedule, error)
        else:
            self._append(schedule, sampled)
        self._emit()
        return bool(self._arrivals or self._scheduler.sequences)

    def _take_arrivals(self) -> None:
        if self._failure is not None:
            raise EngineFailed(self._failure)
        while self._arrivals:
            arrival = self._arrivals.popleft()
            if isinstance(arrival, Sequence):
                self._scheduler.add(arrival)
            elif (sequence := self._scheduler.find(arrival)) is not None:
                self._end(sequence, sequence.finish("abort"))

    def _run(self, schedule: Schedule) -> Sampled:
        """Compute a step's logits and choose the tokens of `schedule.sampled`."""
        if not schedule.has_work:
            return NOTHING
        began = time.perf_counter()
        rows = [args for sequence in schedule.sampled for args in sequence.sample_args()]
        sampled = on_tensor_thread(lambda: self._runner.step(schedule, rows))
        self._scheduler.record_step(schedule, time.perf_counter() - began)
        self._failed_steps = 0
        return sampled

    def _append(self, schedule: Schedule, sampled: Sampled) -> None:
        """Give each sequence the token chosen for it and, as long as guesses come true, the next ones."""
        broken = {schedule.chunks[number].sequence for number in sampled.broken_chunks}
        for sequence in broken:
            self._break(sequence)
        first = 0
        for sequence in schedule.sampled:
            guesses = sequence.draft_ids
            for row, guess in enumerate((*guesses, None), start=first):
                if sequence in broken or not self._append_row(sequence, row, sampled, guess):
                    break
            self._guesses += len(guesses)
            first += 1 + len(guesses)

    def _append_row(self, sequence: Sequence, row: int, sampled: Sampled, guess: int | None) -> bool:
        """Give a sequence the token chosen from a row of logits; return whether the next row goes on from it."""
        if row in sampled.broken:
            return self._break(sequence)
        token_id = sampled.token_ids[row]
        is_true = token_id == guess
        self._true_guesses += is_true
        try:
            return self._append_token(sequence, token_id, sampled.logprobs.get(row)) and is_true
        except GrammarError as error:
            return self._fail_at_grammar(sequence, str(error))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # it ends this sequence, and no other; a panic in tokenizers is no Exception
            log.exception("Sequence %d failed at token %d", sequence.sequence_id, token_id)
            self._end(sequence, sequence.fail(f"{type(error).__name__}: {error}"))
            return False

    def _break(self, sequence: Sequence) -> bool:
        """End a sequence for which no token can be chosen."""
        if (reason := sequence.grammar_error) is not None:
            return self._fail_at_grammar(sequence, reason)
        log.error("Sequence %d: %s", sequence.sequence_id, BROKEN)
        self._end(sequence, sequence.fail(BROKEN))
        return False

    def _fail_at_grammar(self, sequence: Sequence, reason: str) -> bool:
        """End a sequence whose grammar has proved unusable. It is the client's, so another try would end the same."""
        log.warning("Sequence %d: %s", sequence.sequence_id, reason)
        self._end(sequence, sequence.fail(reason, "unusable_grammar"))
        return False

    def _append_token(self, sequence: Sequence, token_id: int, logprobs: RowLogprobs | None) -> bool:
        token, finish_reason = sequence.append(token_id, logprobs)
        if token.is_first and (echo := sequence.prompt_echo()) is not None:
            self._events[sequence.sink].append((sequence.sequence_id, echo))
        self._events[sequence.sink].append((sequence.sequence_id, token))
        self._generated_tokens += 1
        if finish_reason is not None:
            self._end(sequence, sequence.finish(finish_reason))
        return finish_reason is None

    def _emit(self) -> None:
        """Hand each sink its events of this step."""
        events, self._events = self._events, defaultdict(list)
        for sink, sink_events in events.items():
            try:
                sink(sink_events)
            except Exception:
                log.exception("A sink raised; its sequences end here")
                self._arrivals.extend(sequence_id for sequence_id, _ in sink_events)  # an abort of each

    def _end(self, sequence: Sequence, event: Finished | Failed) -> None:
        """Emit a terminal event and free the slot; what a failed sequence left in the cache is not reused."""
        self._scheduler.remove(sequence, keep_cache=isinstance(event, Finished))
        self._events[sequence.sink].append((sequence.sequence_id, event))
        with self._lock:
            self._in_flight -= 1

    def _fail_step(self, schedule: Schedule, error: Exception) -> None:
        """End the sequences of a step that raised; after several such steps in a row, fail for good."""
        reason = f"{type(error).__name__}: {error}"
        self._failed_steps += 1
        self._all_failed_steps += 1
        log.error("A step raised (%d in a row): %s", self._failed_steps, reason, exc_info=error)
        for sequence in schedule.sequences:
            self._end(sequence, sequence.fail(reason))
        if self._failed_steps >= MAX_FAILED_STEPS:
            self._fail(reason)

    def _fail(self, reason: str) -> None:
        """Take no more requests, end every sequence in flight, and raise `EngineFailed`."""
        with self._lock:
            arrivals = list(self._arrivals)
            self._arrivals.clear()
            self._failure = reason
        for arrival in arrivals:
            if isinstance(arrival, Sequence):
                self._scheduler.add(arrival)
        for sequence in self._scheduler.sequences:
            self._end(sequence, sequence.fail(reason))
        self._emit()
        raise EngineFailed(reason)

    # --- What any thread may ask ------------------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo:
        return self._text.info

    def encode(self, requests: abc.Sequence[GenerationRequest]) -> list[EncodedRequest]:
        """Prepare requests for `submit`, without touching the engine's state. See `TextSide.encode`."""
        return self._text.encode(requests)

    def submit(self, requests: abc.Sequence[EncodedRequest], sink: Sink) -> None:
        """Queue all of these sequences, or none, without waiting. Their events go to `sink`, on the stepping thread.

        Raises:
            TooManySequences: there never is room for all of them.
            QueueFull: there is not enough room for all of them just now.
            EngineFailed: the engine has failed for good.
        """
        sequences = [
            Sequence(encoded, sink, self._text.answer(encoded), self._bans, self._speculates) for encoded in requests
        ]
        with self._lock:
            if self._failure is not None:
                raise EngineFailed(self._failure)
            check_room(len(sequences), self._in_flight, self._capacity)
            self._in_flight += len(sequences)
            self._arrivals.extend(sequences)

    def abort(self, sequence_id: SequenceId) -> None:
        """End a sequence at the next step; one that is unknown or has ended is left alone."""
        self._arrivals.append(sequence_id)

    def counters(self) -> Counters:
        running = self._scheduler.running
        waiting = max(0, self._in_flight - running)
        return Counters(
            running,
            waiting,
            self._generated_tokens,
            failed_steps=self._all_failed_steps,
            guessed_tokens=self._guesses,
            true_guesses=self._true_guesses,
        )

    def tokenize(self, prompt: Prompt) -> Tokenized:
        """Return a prompt's token ids, and the text of each."""
        return self._text.tokenize(prompt)

    def detokenize(self, token_ids: abc.Sequence[int]) -> str:
        """Return the text of token ids, special tokens included."""
        return self._text.detokenize(token_ids)

    # --- For synchronous callers ------------------------------------------------------------------------------------

    def generate(self, prompt: str | Prompt, **settings: Any) -> dict[str, Any]:
        """Generate a whole answer; `settings` are the fields of `SamplingParams`.

        Returns:
            What `POST /generate` answers without `stream`.

        Raises:
            ValueError: a setting is out of range, or the prompt too long or unusable.
            QueueFull: see `submit`.
            EngineFailed: this answer could not be finished, or the engine has failed for good.
        """
        return _as_dict(completion(list(self._events_of(prompt, settings))))

    def generate_stream(self, prompt: str | Prompt, **settings: Any) -> abc.Iterator[dict[str, Any]]:
        """The same, yielding what the stream of `POST /generate` sends: a dict per token, then a closing one.

        Closing the iterator early aborts the request.
        """
        # Closed by name: since Python 3.12 closing a generator does not end those that it iterates over.
        with closing(self._events_of(prompt, settings)) as events:
            for event in events:
                if not isinstance(event, PromptEcho):
                    yield dict(stream_event(event))

    def _events_of(
        self, prompt: str | Prompt, settings: dict[str, Any]
    ) -> abc.Generator[PromptEcho | Token | Finished, None, None]:
        """Submit a request and take turns stepping until it has ended."""
        if isinstance(prompt, str):
            request = text_request(prompt, **settings)
        else:
            request = GenerationRequest(prompt, SamplingParams(**settings))
        (encoded,) = self.encode([request])
        mailbox: deque[tuple[SequenceId, Event]] = deque()
        self.submit([encoded], mailbox.extend)
        event: Event | None = None
        try:
            while not isinstance(event, Finished):
                self.turns.wait_for(lambda: bool(mailbox))
                _, event = mailbox.popleft()
                if isinstance(event, Failed):
                    raise EngineFailed(event.message)
                yield event
        finally:
            if not isinstance(event, Finished | Failed):
                self.abort(encoded.sequence_id)
                self.turns.step()


def _as_dict(answer: Any) -> dict[str, Any]:
    """A dataclass as the JSON object that a client would get, without the fields that are None."""
    return {name: value for name, value in asdict(answer).items() if value is not None}

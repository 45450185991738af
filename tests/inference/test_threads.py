"""Several threads use one engine at the same time."""

import subprocess
import sys
import threading

import torch
from torch import Tensor

from inference.scheduling.scheduler import Schedule
from interface.engine import StepEvents
from interface.requests import text_request
from study.common.launcher import ROOT
from tests.support.probes import spy_on_schedules
from tests.support.tiny_models import Inbox, reference, run_until_idle, submit, tiny_engine


def test_threads_that_step_at_once_take_turns() -> None:
    engine, inbox = tiny_engine(), Inbox()
    sequence_id = submit(engine, inbox, "hello", max_tokens=40, temperature=0)
    forward = engine._runner.forward
    inside, overlaps, steppers = threading.Lock(), [], set()

    def checked_forward(schedule: Schedule) -> Tensor:
        steppers.add(threading.get_ident())
        overlaps.append(not inside.acquire(blocking=False))
        try:
            return forward(schedule)
        finally:
            inside.release()

    engine._runner.forward = checked_forward  # type: ignore[method-assign]
    start = threading.Barrier(4)

    def step_until_done() -> None:
        start.wait()
        while not inbox.ends(sequence_id):
            engine.turns.step()

    threads = [threading.Thread(target=step_until_done) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [False] * 40
    assert inbox.token_ids(sequence_id) == reference("llama", "hello", 40)


def test_a_submit_and_an_abort_do_not_wait_for_the_step_that_is_running() -> None:
    engine, inbox = tiny_engine(), Inbox()
    first = submit(engine, inbox, "hello", max_tokens=2)
    forward = engine._runner.forward
    in_forward, go_on = threading.Event(), threading.Event()

    def slow_forward(schedule: Schedule) -> Tensor:
        in_forward.set()
        assert go_on.wait(30)
        return forward(schedule)

    engine._runner.forward = slow_forward  # type: ignore[method-assign]
    stepper = threading.Thread(target=engine.step)
    stepper.start()
    assert in_forward.wait(30)
    second = submit(engine, inbox, "hello", max_tokens=1)
    engine.abort(first)
    assert engine.counters().running == 1
    go_on.set()
    stepper.join()
    assert [len(inbox.tokens(sequence_id)) for sequence_id in (first, second)] == [1, 0]
    run_until_idle(engine)
    assert [inbox.finish_reason(sequence_id) for sequence_id in (first, second)] == ["abort", "length"]


def test_a_sink_may_wait_for_a_thread_that_uses_the_engine() -> None:
    engine = tiny_engine()
    answered: list[bool] = []

    def sink(events: StepEvents) -> None:
        other = threading.Thread(target=engine.abort, args=(0,))
        other.start()
        other.join(20)
        answered.append(not other.is_alive())

    request = text_request(prompt="hello", max_tokens=9)
    engine.submit(engine.encode([request]), sink)
    stream = engine.generate_stream("hello", max_tokens=9)
    next(stream)
    engine.abort(request.sequence_id)
    stream.close()  # type: ignore[attr-defined]
    assert answered
    assert all(answered)


def test_encoding_touches_no_state_and_submitting_runs_nothing() -> None:
    engine, inbox = tiny_engine(), Inbox()
    schedules = spy_on_schedules(engine)
    requests = [text_request(prompt="hello", max_tokens=3, temperature=0) for _ in range(2)]
    engine.submit(engine.encode(requests), inbox)
    assert schedules == []
    run_until_idle(engine)
    assert {tuple(inbox.token_ids(request.sequence_id)) for request in requests} == {
        tuple(reference("llama", "hello", 3))
    }


def test_logits_are_not_kept_for_gradients() -> None:
    engine, inbox = tiny_engine(), Inbox()
    submit(engine, inbox, "hello", max_tokens=2)
    seen: list[Tensor] = []
    forward = engine._runner.forward

    def keeping_forward(schedule: Schedule) -> Tensor:
        seen.append(forward(schedule))
        return seen[-1]

    engine._runner.forward = keeping_forward  # type: ignore[method-assign]
    run_until_idle(engine)
    assert len(seen) == 2
    assert all(torch.is_inference(logits) for logits in seen)


ENDS_DURING_WORK = """
import threading
import torch
from inference.tensor_thread import on_tensor_thread

has_begun, matrix = threading.Event(), torch.ones(400, 400)

def step():
    has_begun.set()
    for _ in range(10):
        matrix @ matrix

def step_for_ever():
    while True:
        on_tensor_thread(step)

threading.Thread(target=step_for_ever, daemon=True).start()
has_begun.wait()
"""


def test_a_process_may_end_while_the_tensor_thread_computes() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_DURING_WORK], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, "")

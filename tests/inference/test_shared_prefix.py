"""A beginning that several prompts share is computed once, also while they run, and the answers do not change."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from engine import Engine
from inference.scheduling import scheduler
from inference.scheduling.scheduler import Schedule
from interface.events import Failed, Finished
from interface.requests import SequenceId
from tests.support.tiny_models import Inbox, reference, run_until_idle, submit, tiny_engine

SHARED = "Once upon a time there was a fox who lived in a wood by the sea, and every day it went out to fish; "
TAILS = ["one day", "never", "on Mondays it slept", "o"]
LENGTH = 12
ARCHITECTURES = ["gpt2", "llama", "gemma2", "mistral"]


@contextmanager
def schedules(engine: Engine) -> Iterator[list[Schedule]]:
    """Collects the schedules of the engine's steps."""
    seen: list[Schedule] = []
    schedule = engine._scheduler.schedule

    def spying() -> Schedule:
        seen.append(schedule())
        return seen[-1]

    engine._scheduler.schedule = spying  # type: ignore[method-assign]
    yield seen
    engine._scheduler.schedule = schedule  # type: ignore[method-assign]


def submit_all(engine: Engine, inbox: Inbox, tails: Sequence[str] = TAILS, **settings: Any) -> dict[SequenceId, str]:
    """Submit the shared beginning with each tail; return the prompts by their sequences."""
    prompts = [SHARED + tail for tail in tails]
    return {
        submit(engine, inbox, text, **{"max_tokens": LENGTH, "temperature": 0} | settings): text for text in prompts
    }


def assert_answers(inbox: Inbox, prompts: dict[SequenceId, str], architecture: str = "llama") -> None:
    for sequence_id, prompt in prompts.items():
        assert inbox.token_ids(sequence_id) == reference(architecture, prompt, LENGTH), prompt


def cached_tokens(inbox: Inbox, sequence_id: SequenceId) -> int:
    end = inbox.end(sequence_id)
    assert isinstance(end, Finished)
    return end.cached_tokens


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("chunk", [8, 512])
def test_prompts_that_arrive_together_compute_their_beginning_once(architecture: str, chunk: int) -> None:
    engine, inbox = tiny_engine(architecture, max_streams=4, prefill_chunk=chunk), Inbox()
    with schedules(engine) as seen:
        prompts = submit_all(engine, inbox)
        run_until_idle(engine)
    assert_answers(inbox, prompts, architecture)
    # "one day", "on Mondays" and "o" have a letter or two more in common; what is that short is not copied for itself.
    assert sum(schedule.prompt_tokens for schedule in seen) <= len(SHARED) + sum(map(len, TAILS))
    first, *others = prompts
    assert cached_tokens(inbox, first) == 0
    assert all(cached_tokens(inbox, sequence_id) >= len(SHARED) for sequence_id in others)


@pytest.mark.parametrize("most", [1, 2 * len(SHARED)])
def test_a_step_copies_so_much_and_the_next_one_goes_on(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(scheduler, "MOST_COPIED", most)
    engine, inbox = tiny_engine(max_streams=4), Inbox()
    submit(engine, inbox, SHARED + "first", max_tokens=1)
    run_until_idle(engine)  # of those that come now, the first takes its slot
    with schedules(engine) as seen:
        prompts = submit_all(engine, inbox)
        run_until_idle(engine)
    assert_answers(inbox, prompts)
    copies = [len(schedule.copies) for schedule in seen if schedule.copies]
    assert copies == ([1, 1, 1] if most == 1 else [2, 1])
    assert all(cached_tokens(inbox, sequence_id) >= len(SHARED) for sequence_id in prompts)


@pytest.mark.timeout(120)
def test_compiled_they_share_it_all_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "MOST_COPIED", 1)  # that is for copies that take time
    engine, inbox = tiny_engine("qwen3", max_streams=4, prefill_chunk=16, compile=True), Inbox()
    with schedules(engine) as seen:
        prompts = submit_all(engine, inbox)
        run_until_idle(engine)
    assert_answers(inbox, prompts, "qwen3")
    assert sum(cached_tokens(inbox, sequence_id) for sequence_id in prompts) >= 3 * len(SHARED)
    assert [len(schedule.copies) for schedule in seen if schedule.copies] == [3]


def test_the_same_prompt_many_times_computes_one_token_for_each_but_the_first() -> None:
    engine, inbox = tiny_engine(max_streams=4), Inbox()
    with schedules(engine) as seen:
        prompts = submit_all(engine, inbox, ["same"] * 4)
        run_until_idle(engine)
    assert_answers(inbox, prompts)
    assert sum(schedule.prompt_tokens for schedule in seen) == len(SHARED) + len("same") + 3


@pytest.mark.parametrize("max_tokens", [1, LENGTH])
def test_one_that_ends_at_its_first_token_is_copied_from_all_the_same(max_tokens: int) -> None:
    engine, inbox = tiny_engine(max_streams=4, prefill_chunk=16), Inbox()
    first = submit(engine, inbox, SHARED + "first", max_tokens=max_tokens, temperature=0)
    prompts = submit_all(engine, inbox, TAILS[:3])
    run_until_idle(engine)
    assert_answers(inbox, prompts)
    assert cached_tokens(inbox, first) == 0
    assert all(cached_tokens(inbox, sequence_id) >= len(SHARED) for sequence_id in prompts)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_if_the_request_that_computes_the_beginning_leaves_the_others_finish(steps: int) -> None:
    engine, inbox = tiny_engine(max_streams=4, prefill_chunk=8), Inbox()
    leaving = submit(engine, inbox, SHARED + "leaving", max_tokens=LENGTH, temperature=0)
    prompts = submit_all(engine, inbox, TAILS[:3])
    for _ in range(steps):
        engine.step()
    engine.abort(leaving)
    run_until_idle(engine)
    assert inbox.finish_reason(leaving) == "abort"
    assert_answers(inbox, prompts)


def test_if_the_step_that_computes_the_beginning_raises_the_others_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, inbox = tiny_engine(max_streams=4, prefill_chunk=8), Inbox()
    failing = submit(engine, inbox, SHARED + "failing", max_tokens=LENGTH, temperature=0)
    prompts = submit_all(engine, inbox, TAILS[:3])
    engine.step()
    with monkeypatch.context() as patched:
        patched.setattr(engine._runner, "step", lambda *arguments: 1 / 0)
        engine.step()
    run_until_idle(engine)
    assert isinstance(inbox.end(failing), Failed)
    assert_answers(inbox, prompts)


def test_a_short_beginning_of_a_long_text_that_is_still_running_is_copied() -> None:
    engine, inbox = tiny_engine(max_streams=3), Inbox()
    long = submit(engine, inbox, SHARED + "a tail that no other has", max_tokens=30, temperature=0)
    for _ in range(5):
        engine.step()
    short = submit(engine, inbox, SHARED[:40] + "?", max_tokens=LENGTH, temperature=0)
    run_until_idle(engine)
    assert cached_tokens(inbox, short) == 40
    assert inbox.token_ids(short) == reference("llama", SHARED[:40] + "?", LENGTH)
    assert inbox.token_ids(long) == reference("llama", SHARED + "a tail that no other has", 30)


def test_a_short_beginning_of_a_kept_text_is_copied_and_the_text_is_kept() -> None:
    engine, inbox = tiny_engine(max_streams=3), Inbox()
    whole = SHARED + "a tail that no other has"
    submit(engine, inbox, whole, max_tokens=LENGTH, temperature=0)
    run_until_idle(engine)
    short = submit(engine, inbox, SHARED[:40] + "?", max_tokens=LENGTH, temperature=0)
    run_until_idle(engine)
    again = submit(engine, inbox, whole, max_tokens=LENGTH, temperature=0)
    run_until_idle(engine)
    assert (cached_tokens(inbox, short), cached_tokens(inbox, again)) == (40, len(whole) - 1)
    assert inbox.token_ids(again) == reference("llama", whole, LENGTH)


def test_short_beginnings_in_common_are_not_waited_for() -> None:
    engine, inbox = tiny_engine(max_streams=2, prefill_chunk=200), Inbox()
    with schedules(engine) as seen:
        for tail in ("first", "second"):
            submit(engine, inbox, SHARED[:30] + tail, max_tokens=1, temperature=0)
        engine.step()
    assert len(seen[0].chunks) == 2


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_whatever_comes_and_goes_the_answers_are_the_same(architecture: str) -> None:
    chance = random.Random(5)
    engine, inbox = tiny_engine(architecture, max_streams=4, prefill_chunk=8), Inbox()
    families = [SHARED, SHARED[:70] + "but then ", "It was " + SHARED[:80]]
    prompts: dict[SequenceId, str] = {}
    for _ in range(60):
        prompt = chance.choice(families) + chance.choice(["", *TAILS])
        sequence_id = submit(engine, inbox, prompt, max_tokens=chance.choice([1, LENGTH]), temperature=0)
        if chance.random() < 0.3:
            for _ in range(chance.randrange(8)):
                engine.step()
            engine.abort(chance.choice([sequence_id, *prompts]))
        prompts[sequence_id] = prompt
    run_until_idle(engine)
    whole = [sequence_id for sequence_id in prompts if inbox.finish_reason(sequence_id) == "length"]
    assert len(whole) > 20
    for sequence_id in whole:
        token_ids = inbox.token_ids(sequence_id)
        assert token_ids == reference(architecture, prompts[sequence_id], LENGTH)[: len(token_ids)]
    assert sum(cached_tokens(inbox, sequence_id) > 60 for sequence_id in whole) > 10

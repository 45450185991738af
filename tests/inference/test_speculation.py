"""ENGINE_SPECULATE=ngram: tokens of texts that repeat are guessed, and only the time changes for a client."""

import copy
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from config import Config
from engine import Engine
from inference.scheduling.scheduler import MOST_GUESSED
from inference.scheduling.speculation import FEWEST, FIRST_PAUSE, LONGEST_PAUSE, NGRAM, Drafter
from inference.tensor_thread import on_tensor_thread
from inference.weights.checkpoint import Checkpoint
from interface.events import Finished, Token
from interface.requests import GenerationRequest, Grammar, SamplingParams, TextPrompt
from tests.support.native_models import CONTEXT, INSTRUCTIONS, MODELS, model_named
from tests.support.tiny_models import Inbox, byte_tokenizer, model_of, run_until_idle, submit

STREAMS = MOST_GUESSED // 2 + 1
REPEATING = "one two one two one two "
NUMBERS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3]


@pytest.fixture(autouse=True)
def no_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns tiles off, because with them nothing is guessed."""
    if platform.machine() == "x86_64":
        monkeypatch.setenv("CXXFLAGS", INSTRUCTIONS["AVX-512, no tiles"])


def shared_engine(speculate: str | None, quantize: str | None = None) -> Engine:
    engine = engine_for(quantize)
    engine._speculates = speculate is not None
    return engine


@cache
def engine_for(quantize: str | None) -> Engine:
    """One engine with guesses and one without, kept because they take seconds to compile."""
    model = nn.Module.to(copy.deepcopy(model_named("llama, tied")), torch.bfloat16)
    checkpoint = Checkpoint(model, byte_tokenizer(), CONTEXT)
    with single_thread():
        engine = Engine(checkpoint, Config(compile=True, speculate="ngram", quantize=quantize, max_streams=STREAMS))
    assert engine._speculates
    return engine


@contextmanager
def single_thread() -> Iterator[None]:
    """For steps so small that they are mostly waiting for another thread."""
    threads = on_tensor_thread(torch.get_num_threads)
    on_tensor_thread(lambda: torch.set_num_threads(1))
    yield
    on_tensor_thread(lambda: torch.set_num_threads(threads))


def generated(engine: Engine, prompts: list[str], **parameters: Any) -> list[Any]:
    """The events of some requests at once, without times."""
    inbox = Inbox()
    probes = [submit(engine, inbox, prompt, **parameters) for prompt in prompts]
    run_until_idle(engine)
    seen = []
    for probe in probes:
        *tokens, end = inbox.events[probe]
        assert isinstance(end, Finished)
        seen.append(
            (
                [(token.text, token.token_id, token.logprobs) for token in tokens if isinstance(token, Token)],
                (end.finish_reason, end.stop_reason, end.completion_tokens, end.prompt_tokens),
            )
        )
    return seen


def test_what_followed_the_same_tokens_the_last_time_is_guessed() -> None:
    assert Drafter(NUMBERS).guess(10) == [4, 5][:FEWEST]
    assert Drafter(NUMBERS).guess(1) == [4]
    assert Drafter(NUMBERS).guess(0) == []
    assert Drafter([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]).guess(1) == [5]
    assert Drafter(NUMBERS[: NGRAM + 4]).guess(10) == []
    assert Drafter([]).guess(10) == []


def test_a_text_that_goes_round_is_guessed_to_go_on() -> None:
    drafter = Drafter([7, 8] * NGRAM)
    for _ in range(3):
        for token_id in drafter.guess(100):
            assert drafter.add(token_id)
    assert drafter.guess(5) == [7, 8, 7, 8, 7]


def test_guesses_grow_while_they_come_true_and_pause_longer_and_longer_when_none_does() -> None:
    drafter = Drafter([5] * 10)
    sizes = []
    for _ in range(3):
        guesses = drafter.guess(100)
        sizes.append(len(guesses))
        assert all(drafter.add(token_id) for token_id in guesses)
    assert sizes == [FEWEST, 2 * FEWEST, 4 * FEWEST]
    pauses = []
    for _ in range(8):
        while not drafter.guess(100):
            drafter.add(5)
        assert not drafter.add(6)
        pause = 0
        while not drafter.guess(100):
            drafter.add(5)
            pause += 1
        pauses.append(pause)
    assert pauses[0] >= FIRST_PAUSE
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE


def test_a_guess_that_comes_true_in_part_is_followed_by_one_of_that_size() -> None:
    drafter = Drafter([*range(50), 10, 11, 12])
    for _ in range(2):
        assert all(drafter.add(token_id) for token_id in drafter.guess(100))
    assert len(guesses := drafter.guess(100)) == 8
    assert [drafter.add(token_id) for token_id in (*guesses[:5], 99)] == [True] * 5 + [False]
    for token_id in (30, 31, 32):
        assert not drafter.add(token_id)
    assert drafter.guess(100) == [33, 34, 35, 36, 37]


@pytest.mark.parametrize("quantize", [None, "int4"])
def test_nothing_that_a_client_sees_depends_on_guessing(quantize: str | None) -> None:
    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        prompts=st.lists(st.sampled_from(["a", REPEATING, "ab" * 20, "Hello, world"]), min_size=1, max_size=3),
        temperature=st.sampled_from([0, 0.05, 0.3, 1.5]),
        others=st.fixed_dictionaries(
            {},
            optional={
                "stop": st.lists(st.sampled_from(["e", "ab", "\n", "x"]), min_size=1, max_size=4),
                "logprobs": st.integers(0, 3),
                "min_tokens": st.integers(1, 20),
                "top_p": st.just(0.8),
                "frequency_penalty": st.just(0.5),
            },
        ),
        letters=st.sampled_from(["e", "xyz", "abcde"]),
        max_tokens=st.integers(1, 40),
        seed=st.integers(0, 3),
    )
    def check(
        prompts: list[str], temperature: float, others: dict[str, Any], letters: str, max_tokens: int, seed: int
    ) -> None:
        parameters = {"temperature": temperature, "seed": seed, "max_tokens": max_tokens, **others}
        # Texts of few letters repeat themselves, now and then at least.
        parameters["logit_bias"] = dict.fromkeys(byte_tokenizer()(letters)["input_ids"], 50.0)
        expected = generated(shared_engine(None, quantize), prompts, **parameters)
        assert generated(shared_engine("ngram", quantize), prompts, **parameters) == expected

    check()
    counters = shared_engine("ngram", quantize).counters()
    assert counters.guessed_tokens > counters.true_guesses > 0


def test_a_repeating_text_takes_fewer_steps() -> None:
    steps = {}
    for speculate in (None, "ngram"):
        engine, inbox = shared_engine(speculate), Inbox()
        submit(engine, inbox, "z", 60, temperature=0, logit_bias={45: 100.0})
        steps[speculate] = 1
        while engine.step():
            steps[speculate] += 1
    assert steps[None] == 60
    assert steps["ngram"] <= 20


def test_a_guess_that_ends_the_text_has_come_true_and_those_behind_it_have_not() -> None:
    engine, inbox = shared_engine("ngram"), Inbox()
    letter = byte_tokenizer().decode([45])
    for length in (9, 10, 11):
        submit(engine, inbox, "z", 60, temperature=0, logit_bias={45: 100.0}, stop=letter * length)
        is_going_on, true, start = True, 0, engine.counters()
        while is_going_on:
            before = engine.counters()
            is_going_on = engine.step()
            after = engine.counters()
            made, guessed = (
                after.generated_tokens - before.generated_tokens,
                after.guessed_tokens - before.guessed_tokens,
            )
            true += min(made, guessed)
        assert after.generated_tokens - start.generated_tokens == length
        assert after.true_guesses - start.true_guesses == true


def test_the_next_turn_finds_guessed_tokens_in_the_cache() -> None:
    first = shared_engine("ngram").generate("q", max_tokens=50, temperature=0, logit_bias={45: 100.0}, ignore_eos=True)
    prompt = "q" + first["text"] + "?"
    second, other = (shared_engine(how).generate(prompt, max_tokens=5, temperature=0) for how in ("ngram", None))
    assert second["cached_tokens"] == 50, "all but the last token, which no step has read"
    assert second["token_ids"] == other["token_ids"]


def test_rows_whose_next_choice_depends_on_the_one_before_are_not_guessed() -> None:
    before = shared_engine("ngram").counters().guessed_tokens
    for parameters in ({"frequency_penalty": 0.1}, {"repetition_penalty": 1.1}):
        shared_engine("ngram").generate(REPEATING, max_tokens=30, temperature=0, **parameters)
    prompt, settled = TextPrompt(REPEATING), SamplingParams(max_tokens=30, temperature=0)
    shared_engine("ngram").submit(
        shared_engine("ngram").encode([GenerationRequest(prompt, settled, Grammar("regex", "(ab){20}"))]), Inbox()
    )
    run_until_idle(shared_engine("ngram"))
    assert shared_engine("ngram").counters().guessed_tokens == before


def test_with_many_streams_nothing_is_guessed() -> None:
    engine, inbox = shared_engine("ngram"), Inbox()
    before = engine.counters()
    for _ in range(STREAMS):
        submit(engine, inbox, REPEATING, 30, temperature=0, logit_bias={45: 100.0})
    made = 0
    while made < 20 * STREAMS:
        engine.step()
        made = engine.counters().generated_tokens - before.generated_tokens
    assert engine.counters().running == STREAMS
    assert engine.counters().guessed_tokens == before.guessed_tokens
    run_until_idle(engine)


def test_where_steps_may_round_differently_nothing_is_guessed_and_one_line_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    checkpoint = Checkpoint(model_of(MODELS["llama"]), byte_tokenizer(), CONTEXT)
    engine = Engine(checkpoint, Config(speculate="ngram"))
    assert [record.message for record in caplog.records if "guessed" in record.message] == [
        "No tokens are guessed: a step of several tokens may round differently here than steps of one. Expected a "
        "Llama-type model with ENGINE_COMPILE=1, on a CPU without AMX."
    ]
    engine.generate(REPEATING, max_tokens=30, temperature=0, logit_bias={45: 100.0})
    assert engine.counters().guessed_tokens == 0

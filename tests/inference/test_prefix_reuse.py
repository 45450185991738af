"""A prompt that begins like what a free slot holds prefills only its tail; the answer does not change."""

import random
from typing import Any

import pytest

from engine import Engine
from interface.events import Finished
from tests.support.tiny_models import Inbox, reference, run_until_idle, submit, tiny_engine

ARCHITECTURES = ["gpt2", "llama", "gemma2", "gemma3", "mistral"]
BEGINNING = "Once upon a time there was a fox who"
LENGTH = 16


def answer_to(engine: Engine, prompt: str, **settings: Any) -> dict[str, Any]:
    answer = engine.generate(prompt, **{"max_tokens": LENGTH, "temperature": 0} | settings)
    return answer


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_longer_prompt_reuses_the_shorter_one_before_it(architecture: str) -> None:
    engine = tiny_engine(architecture, max_streams=2, prefill_chunk=8)
    assert answer_to(engine, BEGINNING)["cached_tokens"] == 0
    second = answer_to(engine, BEGINNING + " lived in a wood")
    assert second["cached_tokens"] == len(BEGINNING)
    assert second["token_ids"] == reference(architecture, BEGINNING + " lived in a wood", LENGTH)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_prompt_again_computes_its_last_token_only(architecture: str) -> None:
    engine = tiny_engine(architecture, max_streams=1)
    first, second = answer_to(engine, BEGINNING), answer_to(engine, BEGINNING)
    assert second["cached_tokens"] == len(BEGINNING) - 1
    assert second["token_ids"] == first["token_ids"] == reference(architecture, BEGINNING, LENGTH)


def test_a_prompt_that_departs_in_the_middle_reuses_what_comes_before() -> None:
    engine = tiny_engine(max_streams=1)
    answer_to(engine, BEGINNING)
    other = BEGINNING[:20] + "XXXX"
    answer = answer_to(engine, other)
    assert answer["cached_tokens"] == 20
    assert answer["token_ids"] == reference("llama", other, LENGTH)


def test_an_answer_is_reused_as_well_as_its_prompt() -> None:
    engine, inbox = tiny_engine(max_streams=1), Inbox()
    first = submit(engine, inbox, BEGINNING, max_tokens=8, temperature=0)
    run_until_idle(engine)
    sequence_ids = inbox.token_ids(first)
    assert next(iter(engine._scheduler._cache._free.values()))[len(BEGINNING) :] == sequence_ids[:-1]


def test_of_several_slots_the_one_with_the_longest_common_beginning_is_chosen() -> None:
    engine, inbox = tiny_engine(max_streams=3), Inbox()
    for prompt in (BEGINNING[:10] + "?", BEGINNING, BEGINNING[:20] + "?"):  # at once, so each has a slot of its own
        submit(engine, inbox, prompt, max_tokens=4)
    run_until_idle(engine)
    assert answer_to(engine, BEGINNING + "!")["cached_tokens"] == len(BEGINNING)


def test_a_chat_that_rests_keeps_its_slot_while_another_one_goes_on() -> None:
    engine = tiny_engine(max_streams=2)
    answer_to(engine, "first chat")
    answer_to(engine, "the other chat")
    assert answer_to(engine, "the other chat, next turn")["cached_tokens"] == len("the other chat")
    assert answer_to(engine, "first chat, next turn")["cached_tokens"] == len("first chat")


def test_a_short_common_beginning_does_not_take_the_slot_of_a_resting_chat() -> None:
    engine = tiny_engine(max_streams=2)
    answer_to(engine, "You help. First chat")
    assert answer_to(engine, "You help. ?")["cached_tokens"] == 0, "an empty slot is taken before one with a prefix"
    assert answer_to(engine, "You help. First chat, next turn")["cached_tokens"] == len("You help. First chat")


def test_a_slot_left_in_prefill_is_reused_as_far_as_it_got() -> None:
    engine, inbox = tiny_engine(max_streams=1, prefill_chunk=2), Inbox()
    leaver = submit(engine, inbox, BEGINNING, max_tokens=4)
    engine.step()
    engine.step()
    engine.abort(leaver)
    run_until_idle(engine)
    answer = answer_to(engine, BEGINNING)
    assert answer["cached_tokens"] == 16
    assert answer["token_ids"] == reference("llama", BEGINNING, LENGTH)


def test_no_slot_that_is_in_use_is_reused() -> None:
    engine, inbox = tiny_engine(max_streams=2), Inbox()
    both = [submit(engine, inbox, BEGINNING, max_tokens=LENGTH, temperature=0) for _ in range(2)]
    run_until_idle(engine)
    ends = [inbox.end(sequence_id) for sequence_id in both]
    assert [end.cached_tokens for end in ends if isinstance(end, Finished)] == [0, 0]
    assert inbox.token_ids(both[0]) == inbox.token_ids(both[1]) == reference("llama", BEGINNING, LENGTH)


@pytest.mark.parametrize("seed", range(3))
def test_random_turns_of_random_chats_say_what_generate_says(seed: int) -> None:
    chance = random.Random(seed)
    engine, inbox = tiny_engine("gemma3", max_streams=3, prefill_chunk=chance.choice([3, 16])), Inbox()
    prompts = {}
    for _ in range(12):
        prompt = BEGINNING[: chance.randrange(1, len(BEGINNING))] + chance.choice(["", "a", "b", "ab", " and then"])
        prompts[submit(engine, inbox, prompt, max_tokens=LENGTH, temperature=0)] = prompt
        for _ in range(chance.randrange(12)):
            engine.step()
    run_until_idle(engine)
    for sequence_id, prompt in prompts.items():
        assert inbox.token_ids(sequence_id) == reference("gemma3", prompt, LENGTH), prompt
    ends = [inbox.end(sequence_id) for sequence_id in prompts]
    assert any(isinstance(end, Finished) and end.cached_tokens > 1 for end in ends)

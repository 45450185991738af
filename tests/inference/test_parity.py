"""Greedy output in float32 is that of transformers' own `generate`, alone and among any other requests."""

import random
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from config import Config
from engine import Engine
from interface.errors import UnsupportedModel
from interface.events import Finished
from interface.requests import SequenceId, text_request
from tests.support.tiny_models import (
    CONTEXT,
    Inbox,
    byte_tokenizer,
    reference,
    reference_model,
    reference_output,
    run_until_idle,
    submit,
    tiny_engine,
)

ARCHITECTURES = ["gpt2", "qwen3", "gemma", "llama", "gemma2", "gemma3", "cohere2", "mistral", "qwen2_moe"]
PROMPT = "The probe's prompt, which takes several chunks."
LENGTH = 24
MANY_PROMPTS = ["a", "Hello, world", PROMPT, "x" * 100, "😀 你好", "once upon a time there was a fox", "2+2=", "?"]


@dataclass
class Neighbour:
    """A request that shares the engine with the probe: when it comes, and when it is aborted."""

    comes: int
    prompt: str
    settings: dict[str, Any]
    aborted: int | None = None
    sequence_id: SequenceId = field(default=0, init=False)


def eight_neighbours(first_tokens: str) -> list[Neighbour]:
    """Neighbours of every kind, for an engine of five slots; one of them has `first_tokens` for a stop string."""
    return [
        Neighbour(0, "n" * 90, {"temperature": 1.0, "seed": 1, "max_tokens": 60}),
        Neighbour(0, "greedy", {"temperature": 0, "max_tokens": 40, "stop": [first_tokens, "never"]}),
        Neighbour(1, "short-lived", {"temperature": 2.0, "top_k": 5, "seed": 2, "max_tokens": 1}),
        Neighbour(2, "to leave in decode", {"temperature": 0.5, "top_p": 0.5, "max_tokens": 50}, aborted=15),
        Neighbour(4, "to leave in prefill" * 6, {"temperature": 0, "max_tokens": 9}, aborted=13),
        Neighbour(5, "for a slot that was used", {"temperature": 0.9, "top_p": 0.9, "seed": 3, "max_tokens": 30}),
        Neighbour(5, "one that waits" * 4, {"temperature": 0, "max_tokens": 12}),
        Neighbour(5, "to leave in the queue", {"temperature": 1.0, "max_tokens": 9}, aborted=6),
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_request_alone_says_what_generate_says(architecture: str) -> None:
    engine = tiny_engine(architecture, max_streams=4, prefill_chunk=7)
    for prompt in MANY_PROMPTS:
        answer = engine.generate(prompt, max_tokens=LENGTH, temperature=0)
        assert answer["token_ids"] == reference(architecture, prompt, LENGTH), prompt


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_eight_neighbours_that_come_and_go_change_nothing(architecture: str) -> None:
    engine, inbox = tiny_engine(architecture, max_streams=5, prefill_chunk=10), Inbox()
    neighbours = eight_neighbours(first_tokens=engine.generate("greedy", max_tokens=3, temperature=0)["text"])
    probe = None
    for step in range(200):
        if step == 2:
            probe = submit(engine, inbox, PROMPT, max_tokens=LENGTH, temperature=0)
        for neighbour in neighbours:
            if neighbour.comes == step:
                neighbour.sequence_id = submit(engine, inbox, neighbour.prompt, **neighbour.settings)
            if neighbour.aborted == step:
                engine.abort(neighbour.sequence_id)
        if not engine.step():
            break

    assert probe is not None
    assert inbox.token_ids(probe) == reference(architecture, PROMPT, LENGTH)
    assert inbox.finish_reason(probe) == "length"
    ends = [inbox.end(neighbour.sequence_id) for neighbour in neighbours]
    finished = [end for end in ends if isinstance(end, Finished)]
    reasons = [end.finish_reason for end in finished]
    assert reasons == ["length", "stop", "length", "abort", "abort", "length", "length", "abort"]
    _, _, _, in_decode, in_prefill, _, _, in_the_queue = finished
    assert 0 < in_decode.completion_tokens < 50
    assert in_prefill.completion_tokens == 0 < in_prefill.prefill_ms
    assert in_the_queue.completion_tokens == 0 == in_the_queue.prefill_ms
    assert inbox.token_ids(neighbours[6].sequence_id) == reference(architecture, neighbours[6].prompt, 12)


@pytest.mark.parametrize("seed", range(4))
def test_random_comings_and_goings_change_nothing(seed: int) -> None:
    chance = random.Random(seed)
    engine = tiny_engine("llama", max_streams=3, prefill_chunk=chance.choice([1, 5, 16, 256]))
    inbox, prompts, aborted = Inbox(), {}, set()
    for _ in range(60):
        if chance.random() < 0.4:
            prompt = chance.choice(MANY_PROMPTS)
            prompts[submit(engine, inbox, prompt, max_tokens=LENGTH, temperature=0)] = prompt
        if prompts and chance.random() < 0.15:
            leaver = chance.choice(list(prompts))
            aborted.add(leaver)
            engine.abort(leaver)
        engine.step()
    run_until_idle(engine)
    for sequence_id, prompt in prompts.items():
        expected = reference("llama", prompt, LENGTH)
        if inbox.finish_reason(sequence_id) == "length":
            assert inbox.token_ids(sequence_id) == expected
        else:
            assert sequence_id in aborted
            assert inbox.token_ids(sequence_id) == expected[: len(inbox.tokens(sequence_id))]


@pytest.mark.parametrize("chunk", [1, 2, 46, 47, 48, 1000])
def test_a_prompt_may_be_prefilled_in_chunks_of_any_size(chunk: int) -> None:
    engine, inbox = tiny_engine("gemma3", prefill_chunk=chunk), Inbox()
    sequence_id = submit(engine, inbox, PROMPT, max_tokens=LENGTH, temperature=0)
    run_until_idle(engine)
    assert len(byte_tokenizer()(PROMPT)["input_ids"]) == 47
    assert inbox.token_ids(sequence_id) == reference("gemma3", PROMPT, LENGTH)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("prompt_length", [1, CONTEXT // 2, CONTEXT - 1])
def test_a_request_may_fill_the_context_to_its_last_token(architecture: str, prompt_length: int) -> None:
    engine = tiny_engine(architecture, max_streams=2, prefill_chunk=64)
    prompt, max_tokens = "abcdefghi "[:prompt_length] * max(1, prompt_length // 10), CONTEXT - prompt_length
    prompt += "." * (prompt_length - len(prompt))
    answer = engine.generate(prompt, max_tokens=max_tokens, temperature=0)
    assert answer["prompt_tokens"] + answer["completion_tokens"] == CONTEXT
    assert answer["token_ids"] == reference(architecture, prompt, max_tokens)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gpt2"])
def test_a_slot_that_was_full_is_as_good_as_new(architecture: str) -> None:
    engine = tiny_engine(architecture, max_streams=1)
    engine.generate("w" * 100, max_tokens=CONTEXT - 100, temperature=1)
    assert engine.generate("?", max_tokens=LENGTH, temperature=0)["token_ids"] == reference(architecture, "?", LENGTH)


@pytest.mark.parametrize("number", [1, 2])
def test_a_text_ends_with_its_eos_token_as_it_does_for_generate(number: int) -> None:
    unended = reference("qwen3", PROMPT, LENGTH)
    eos_ids = set(sorted(set(unended[5:]) - set(unended[:5]))[:number])
    prompt_ids = byte_tokenizer()(PROMPT)["input_ids"]
    expected = reference_output(reference_model("qwen3"), prompt_ids, LENGTH, eos_ids)
    assert expected[-1] in eos_ids
    assert 5 < len(expected) < LENGTH

    engine = tiny_engine("qwen3", eos_ids=eos_ids)
    answer = engine.generate(PROMPT, max_tokens=LENGTH, temperature=0)
    assert (answer["token_ids"], answer["finish_reason"]) == (expected, "stop")
    answer = engine.generate(PROMPT, max_tokens=LENGTH, temperature=0, ignore_eos=True)
    assert (answer["token_ids"], answer["finish_reason"]) == (unended, "length")


def test_an_eos_token_at_the_very_end_is_a_stop() -> None:
    expected = reference("qwen3", PROMPT, 6)
    assert expected[-1] not in expected[:-1]
    answer = tiny_engine("qwen3", eos_ids={expected[-1]}).generate(PROMPT, max_tokens=6, temperature=0)
    assert (answer["token_ids"], answer["finish_reason"]) == (expected, "stop")


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_a_seed_says_the_same_alone_and_in_a_batch(architecture: str) -> None:
    settings: dict[str, Any] = {"max_tokens": LENGTH, "temperature": 0.9, "seed": 42}
    alone = tiny_engine(architecture).generate(PROMPT, **settings)["token_ids"]
    for company in ({"temperature": 0}, {"top_p": 0.5}, {"top_k": 3, "seed": 42}, {"temperature": 2.0}):
        engine, inbox = tiny_engine(architecture, prefill_chunk=20), Inbox()
        submit(engine, inbox, "company", max_tokens=20, **company)
        probe = submit(engine, inbox, PROMPT, **settings)
        submit(engine, inbox, PROMPT, max_tokens=30, **company)
        run_until_idle(engine)
        assert inbox.token_ids(probe) == alone, company


def test_two_seeds_say_different_things_and_so_do_two_requests_without_one() -> None:
    engine = tiny_engine()

    def seeded_ids(seed: int | None) -> list[int]:
        token_ids: list[int] = engine.generate(PROMPT, max_tokens=LENGTH, temperature=1.5, seed=seed)["token_ids"]
        return token_ids

    assert seeded_ids(1) == seeded_ids(1)
    assert seeded_ids(1) != seeded_ids(2)
    assert seeded_ids(None) != seeded_ids(None)


def test_a_model_whose_state_cannot_be_continued_by_several_tokens_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"MambaForCausalLM .*its layers forget their states"):
        tiny_engine("mamba")


# --- The bundled model ------------------------------------------------------------------------------------------------

BUNDLED_PROMPTS = ["What is 2 + 2?", "Tell me a story about a fox.", "Hello! " * 40, "😀"]


@pytest.fixture(scope="module")
def bundled_engine() -> Engine:
    return Engine.load(Config(device="cpu", dtype="float32", max_streams=5, prefill_chunk=32))


@cache
def bundled_reference_model() -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(Config().model, dtype=torch.float32)
    return model


def bundled_reference(engine: Engine, prompt: str, max_tokens: int) -> list[int]:
    model = bundled_reference_model()
    assert model.generation_config is not None
    eos = model.generation_config.eos_token_id
    eos_ids = [] if eos is None else eos if isinstance(eos, list) else [eos]
    prompt_ids = engine.encode([text_request(prompt=prompt, max_tokens=max_tokens)])[0].prompt_ids
    return reference_output(model, prompt_ids, max_tokens, eos_ids)


def test_the_bundled_model_alone_says_what_generate_says(bundled_engine: Engine) -> None:
    for prompt in BUNDLED_PROMPTS:
        answer = bundled_engine.generate(prompt, max_tokens=40, temperature=0)
        assert answer["token_ids"] == bundled_reference(bundled_engine, prompt, 40), prompt


def test_the_bundled_model_in_a_batch_says_what_generate_says(bundled_engine: Engine) -> None:
    inbox = Inbox()
    probes: dict[SequenceId, str] = {}
    for number, prompt in enumerate(BUNDLED_PROMPTS):
        probes[submit(bundled_engine, inbox, prompt, max_tokens=40, temperature=0)] = prompt
        submit(bundled_engine, inbox, f"company {number} " * 9, max_tokens=15, temperature=1.0, stop=["e", "."])
        leaver = submit(bundled_engine, inbox, "one that leaves", max_tokens=30, temperature=0.7, ignore_eos=True)
        bundled_engine.step()
        bundled_engine.step()
        bundled_engine.abort(leaver)
    run_until_idle(bundled_engine)
    for probe, prompt in probes.items():
        assert inbox.token_ids(probe) == bundled_reference(bundled_engine, prompt, 40), prompt

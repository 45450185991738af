"""Models whose layers keep a state, in place of keys and values or next to them, say what `generate` says."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from config import Config
from engine import Engine
from inference.cache.kv_cache import KVCache
from inference.cache.rows import Rows
from inference.cache.states import RowsAndStates, has_states
from inference.decoders.select import select_decoder
from inference.decoders.stateful_decoder import FORGETFUL
from inference.scheduling.scheduler import LEAST_AWAITED
from inference.weights.checkpoint import Checkpoint
from inference.weights.context import CacheBudget
from inference.weights.state_sizes import bytes_of_states
from interface.errors import UnsupportedModel
from interface.events import Finished
from interface.requests import GenerationRequest, SamplingParams, SequenceId, TokenPrompt
from study.architectures.__main__ import read_table
from study.architectures.checkpoints import POSITIONS, NotTried, small_config, small_model
from tests.support.tiny_models import Inbox, byte_tokenizer, reference_output, run_until_idle

MODELS = ["qwen3_5_text", "lfm2", "granitemoehybrid", "falcon_h1", "mamba2"]
"""With linear attention, convolutions, state spaces, these together with attention in each layer, and nothing else."""
LENGTH = 12
PROMPT = [3 + (7 * number + number // 5) % 250 for number in range(90)]


def engine_for(name: str, **settings: Any) -> Engine:
    checkpoint = Checkpoint(small_model(name), byte_tokenizer(), POSITIONS)
    return Engine(checkpoint, Config(**{"max_streams": 3, "prefill_chunk": 32} | settings))


@cache
def reference_model(name: str) -> PreTrainedModel:
    return small_model(name)


def expected(name: str, prompt: list[int]) -> list[int]:
    return reference_output(reference_model(name), prompt, LENGTH)


def answer(engine: Engine, prompt: list[int]) -> dict[str, Any]:
    return engine.generate(TokenPrompt(prompt), max_tokens=LENGTH, temperature=0)


def submit(engine: Engine, inbox: Inbox, prompt: list[int]) -> SequenceId:
    request = GenerationRequest(TokenPrompt(prompt), SamplingParams(max_tokens=LENGTH, temperature=0))
    engine.submit(engine.encode([request]), inbox)
    return request.sequence_id


@pytest.mark.parametrize("name", MODELS)
def test_texts_together_say_what_generate_says(name: str) -> None:
    engine, inbox = engine_for(name), Inbox()
    prompts = [PROMPT, PROMPT[10:13], PROMPT[5:75], PROMPT[20:60], PROMPT[1:]]  # two of them wait for a slot
    sequences = {submit(engine, inbox, prompt): prompt for prompt in prompts}
    run_until_idle(engine)
    for sequence_id, prompt in sequences.items():
        assert inbox.token_ids(sequence_id) == expected(name, prompt)


@pytest.mark.parametrize("name", MODELS)
def test_a_conversation_goes_on_where_it_ended(name: str) -> None:
    engine = engine_for(name, max_streams=1)
    first = answer(engine, PROMPT)["token_ids"]
    second = PROMPT + first + PROMPT[:20]
    found = answer(engine, second)
    assert found["cached_tokens"] == len(PROMPT) + LENGTH - 1  # all but the answer's last token
    assert found["token_ids"] == expected(name, second)


@pytest.mark.parametrize("name", MODELS)
def test_a_text_that_departs_before_the_end_of_another_is_computed_from_its_beginning(name: str) -> None:
    engine = engine_for(name, max_streams=1)
    answer(engine, PROMPT)
    for other in (PROMPT, PROMPT[:50], PROMPT[:50] + PROMPT[:9]):
        found = answer(engine, other)
        assert (found["cached_tokens"], found["token_ids"]) == (0, expected(name, other))


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_prompt_is_copied_to_one_that_continues_it(name: str) -> None:
    engine, inbox = engine_for(name), Inbox()
    assert len(PROMPT) >= LEAST_AWAITED
    longer = PROMPT + PROMPT[:30]
    first = submit(engine, inbox, PROMPT)
    second = submit(engine, inbox, longer)
    run_until_idle(engine)
    assert inbox.token_ids(first) == expected(name, PROMPT)
    assert inbox.token_ids(second) == expected(name, longer)
    end = inbox.end(second)
    assert isinstance(end, Finished)
    assert end.cached_tokens == len(PROMPT)


def test_a_prompt_that_was_given_up_is_continued_where_it_was_left() -> None:
    engine, inbox = engine_for("qwen3_5_text", max_streams=1, prefill_chunk=8), Inbox()
    given_up = submit(engine, inbox, PROMPT)
    engine.step()
    engine.abort(given_up)
    run_until_idle(engine)
    found = answer(engine, PROMPT)
    assert 0 < found["cached_tokens"] < len(PROMPT) - 1
    assert found["token_ids"] == expected("qwen3_5_text", PROMPT)


def test_guesses_are_never_made() -> None:
    """What is guessed wrong could not be taken back."""
    engine, repeated = engine_for("lfm2", speculate="ngram", compile=True), PROMPT[:8] * 6
    assert answer(engine, repeated)["token_ids"] == expected("lfm2", repeated)
    assert engine.counters().guessed_tokens == 0


def test_a_state_that_is_no_number_is_found_and_belongs_to_one_slot() -> None:
    config = small_config("lfm2")
    storage = RowsAndStates(Rows(2, POSITIONS, slack=0), 2, config)
    layers: list[Any] = []
    for slot in range(2):
        with storage.of([slot]) as states:
            layers.append(states.layers[0])
        layers[slot].update_conv_state(torch.zeros(1, 32, 3))
    assert storage.are_finite([(0, 0, 3), (1, 0, 3)]) == [True, True]
    layers[1].conv_states[0][0, 5, 1] = torch.nan
    assert storage.are_finite([(0, 0, 3), (1, 0, 3)]) == [True, False]
    storage.reserve(1, 0, 4)  # another text begins there
    assert storage.are_finite([(0, 0, 3), (1, 0, 3)]) == [True, True]


def test_layers_that_do_not_attend_take_no_memory_for_each_token() -> None:
    def bytes_for(context: int, layer_types: list[str]) -> int:
        config = small_config("qwen3_5_text", layer_types=layer_types)
        return CacheBudget.of(config, torch.float32, torch.device("cpu"), 4, weight_bytes=0).bytes_for(context)

    half = bytes_for(1000, ["linear_attention", "full_attention"] * 2)
    assert 2 * half == bytes_for(1000, ["full_attention"] * 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_what_states_take_is_known_before_there_is_memory_for_the_model(name: str, dtype: torch.dtype) -> None:
    model, cache = small_model(name), KVCache(slots=3, context=POSITIONS)
    nn.Module.to(model, dtype)
    select_decoder(model, cache)
    expected = cache.storage.state_bytes
    assert 3 * bytes_of_states(small_config(name), dtype) == expected > 0
    without, budget = (
        CacheBudget.of(small_config(name), dtype, torch.device("cpu"), 3, 0, state_bytes=state_bytes)
        for state_bytes in (0, expected // 3)
    )
    assert budget.bytes_for(POSITIONS) == without.bytes_for(POSITIONS) + expected


def test_a_setting_that_makes_no_cache_is_left_to_the_check_of_the_model() -> None:
    config = small_config("llama")
    config.attention_chunk_size = "x"
    assert bytes_of_states(config, torch.float32) == 0


@pytest.mark.parametrize("name", FORGETFUL)
def test_a_model_that_forgets_its_states_within_a_prompt_is_refused_in_half_precision_too(name: str) -> None:
    model = small_model(name)
    nn.Module.bfloat16(model)
    with pytest.raises(UnsupportedModel, match="its layers forget their states where several tokens follow"):
        select_decoder(model, KVCache(2, POSITIONS))


def test_every_model_type_with_states_that_is_refused_is_refused_by_its_name() -> None:
    """Its logits alone would not do: see `FORGETFUL`."""
    others = "gives other logits"
    refused = {name for name, verdict in read_table().items() if others in verdict.outcome and _has_states(name)}
    assert refused == set()


def _has_states(name: str) -> bool:
    try:
        return has_states(small_config(name))
    except NotTried:
        return False


def test_a_model_of_attention_alone_keeps_no_states() -> None:
    assert [has_states(small_config(name)) for name in ("llama", "gemma3_text", "lfm2")] == [False, False, True]

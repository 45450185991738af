"""Layers with a sliding window drop older tokens, and still answer as transformers' `generate` does."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, GptOssConfig, LlamaConfig, MistralConfig, PreTrainedConfig

from config import Config
from engine import Engine
from inference.cache.kv_cache import KVCache
from inference.cache.sizes import SLACK, row_length
from inference.cache.visibility import causal, causal_within, window_of
from inference.decoders import cuda_graphs
from inference.decoders.select import select_decoder
from inference.scheduling.cache_manager import CacheManager, Retention
from inference.weights.checkpoint import Checkpoint
from interface.events import Failed, Finished
from interface.requests import TokenPrompt
from tests.support.tiny_models import Inbox, byte_tokenizer, model_of, reference_output, run_until_idle, submit

CONTEXT = 1200
WINDOW = 24
KEPT = 288
"""Positions in a ring: the window and the slack, in whole blocks."""
LENGTH = 24

_SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "sliding_window": WINDOW,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
MODELS: Mapping[str, Callable[[], PreTrainedConfig]] = {
    "mistral": lambda: MistralConfig(**_SHAPE),
    "gemma3": lambda: Gemma3TextConfig(**_SHAPE, layer_types=_MIXED),
    "gpt_oss": lambda: GptOssConfig(**_SHAPE, layer_types=_MIXED, num_local_experts=4, num_experts_per_tok=2),
}
TEXT = "".join(chr(97 + (7 * number + number // 5) % 26) for number in range(CONTEXT))


def engine_for(name: str, **settings: Any) -> Engine:
    checkpoint = Checkpoint(model_of(MODELS[name]()), byte_tokenizer(), CONTEXT)
    return Engine(checkpoint, Config(**{"max_streams": 3, "prefill_chunk": 64} | settings))


@cache
def expected(name: str, prompt: str, length: int = LENGTH) -> list[int]:
    return reference_output(model_of(MODELS[name]()), byte_tokenizer()(prompt)["input_ids"], length)


def generate(engine: Engine, prompt: str, length: int = LENGTH) -> dict[str, Any]:
    return engine.generate(prompt, max_tokens=length, temperature=0)


def rings(engine: Engine) -> list[int]:
    """The layers with a sliding window."""
    return [number for number, layer in engine._runner._cache.rows.layers.items() if layer.window is not None]


@pytest.mark.parametrize("name", MODELS)
def test_texts_of_many_windows_together_say_what_generate_says(name: str) -> None:
    engine, inbox = engine_for(name), Inbox()
    assert rings(engine) == ([0, 1, 2] if name == "mistral" else [0, 2])
    prompts = [TEXT[:900], TEXT[100 : 100 + KEPT - 10], TEXT[5:35], TEXT[50 : 50 + 2 * KEPT]]
    probes = {submit(engine, inbox, prompt, LENGTH, temperature=0): prompt for prompt in prompts}
    run_until_idle(engine)
    for probe, prompt in probes.items():
        assert inbox.token_ids(probe) == expected(name, prompt), len(prompt)


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_a_piece_of_a_prompt_may_be_longer_than_what_is_kept(name: str) -> None:
    engine = engine_for(name, prefill_chunk=512)
    assert generate(engine, TEXT[:1100])["token_ids"] == expected(name, TEXT[:1100])


def test_a_text_is_decoded_across_the_end_of_its_ring() -> None:
    engine, prompt = engine_for("gemma3"), TEXT[: KEPT - 10]
    assert generate(engine, prompt, 60)["token_ids"] == expected("gemma3", prompt, 60)


def test_decode_steps_laid_out_for_graphs_write_nothing_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "inference.model_runner.select_decoder",
        lambda model, cache, is_compiled, quantize: cuda_graphs.GraphedDecoder(
            select_decoder(model, cache), cache, torch.device("cpu"), lambda work: work
        ),
    )
    engine = engine_for("gemma3", max_streams=2)
    generate(engine, TEXT[:600], 1)
    generate(engine, "Hello, world")  # decodes in the other slot
    answer = generate(engine, TEXT[:600] + "!")
    assert (answer["token_ids"], answer["cached_tokens"]) == (expected("gemma3", TEXT[:600] + "!"), 600)


# --- What has been forgotten is not offered ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_what_a_longer_text_has_pushed_out_stays_forgotten_when_shorter_ones_take_up_its_beginning(name: str) -> None:
    engine = engine_for(name, max_streams=1)
    for length in (KEPT + 112, KEPT + 12, KEPT - 13):
        assert generate(engine, TEXT[:length] + "!", 1)["cached_tokens"] == (0 if length == KEPT + 112 else length)
    assert generate(engine, TEXT[:40] + "?")["token_ids"] == expected(name, TEXT[:40] + "?")


def test_a_copy_has_forgotten_what_its_source_has() -> None:
    engine, inbox = engine_for("gemma3", max_streams=2), Inbox()
    generate(engine, TEXT[: KEPT + 112], 1)
    running = submit(engine, inbox, TEXT[: KEPT + 12] + "!", 60, temperature=0)  # in the slot of the one before
    engine.step()
    assert generate(engine, TEXT[: KEPT - 13] + "!", 1)["cached_tokens"] == KEPT - 13
    engine.abort(running)
    assert generate(engine, TEXT[:40] + "?")["token_ids"] == expected("gemma3", TEXT[:40] + "?")


def test_a_conversation_goes_on_where_it_ended() -> None:
    engine = engine_for("gemma3")
    prompt = byte_tokenizer()(TEXT[:600])["input_ids"]
    answer_ids = generate(engine, TEXT[:600])["token_ids"]
    again = [*prompt, *answer_ids, *byte_tokenizer()("and then?")["input_ids"]]
    answer = engine.generate(TokenPrompt(again), max_tokens=LENGTH, temperature=0)
    assert answer["token_ids"] == reference_output(model_of(MODELS["gemma3"]()), again, LENGTH)
    assert answer["cached_tokens"] == len(prompt) + len(answer_ids) - 1, "the last one was said and not computed"


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_a_text_is_continued_from_a_little_before_its_end_and_not_from_where_it_is_forgotten(name: str) -> None:
    engine = engine_for(name, max_streams=1)
    generate(engine, TEXT[:700])
    regenerated = generate(engine, TEXT[:700])
    assert (regenerated["token_ids"], regenerated["cached_tokens"]) == (expected(name, TEXT[:700]), 699)
    near = TEXT[: 700 - SLACK // 2] + "??"
    answer = generate(engine, near)
    assert (answer["token_ids"], answer["cached_tokens"]) == (expected(name, near), 700 - SLACK // 2)
    far = TEXT[:200] + "??"
    answer = generate(engine, far)
    assert (answer["token_ids"], answer["cached_tokens"]) == (expected(name, far), 0)


def test_a_short_text_is_kept_whole() -> None:
    engine = engine_for("gemma3", max_streams=1)
    generate(engine, TEXT[: KEPT - LENGTH])
    answer = generate(engine, TEXT[:20] + "??")
    assert (answer["token_ids"], answer["cached_tokens"]) == (expected("gemma3", TEXT[:20] + "??"), 20)


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
@pytest.mark.parametrize("shared", [200, 500])
def test_beginnings_that_are_shared_are_copied_where_they_are_still_there(name: str, shared: int) -> None:
    engine, inbox = engine_for(name), Inbox()
    generate(engine, TEXT[600:1100])  # what the copies are made over
    prompts = [TEXT[:shared] + ending for ending in ("one", "another", "a third " * 20)]
    for _ in range(2):
        probes = {submit(engine, inbox, prompt, LENGTH, temperature=0): prompt for prompt in prompts}
        run_until_idle(engine)
        for probe, prompt in probes.items():
            assert inbox.token_ids(probe) == expected(name, prompt), prompt[shared:]
        ends = [inbox.end(probe) for probe in probes]
        assert max(end.cached_tokens for end in ends if isinstance(end, Finished)) >= shared


def test_a_beginning_of_a_running_text_is_not_copied_once_that_has_gone_on() -> None:
    engine, inbox = engine_for("gemma3"), Inbox()
    running = submit(engine, inbox, TEXT[: KEPT - 4], 60, temperature=0)
    while engine.counters().generated_tokens < 10:
        engine.step()
    late = submit(engine, inbox, TEXT[:20] + "?", LENGTH, temperature=0)
    run_until_idle(engine)
    assert inbox.token_ids(late) == expected("gemma3", TEXT[:20] + "?")
    end = inbox.end(late)
    assert isinstance(end, Finished)
    assert end.cached_tokens == 0
    assert inbox.token_ids(running) == expected("gemma3", TEXT[: KEPT - 4], 60)


def test_the_cache_manager_offers_what_can_be_continued() -> None:
    text = list(range(100))
    for beginning, reused in ((15, 0), (16, 16), (19, 19)):
        manager = CacheManager(1, Retention(whole=10, behind=4))
        slot, _ = manager.allocate(text[:20])
        manager.free(slot, text[:20])
        assert manager.allocate([*text[:beginning], 200]) == (slot, reused), beginning


# --- What was broken --------------------------------------------------------------------------------------------------


def test_nan_that_the_last_token_of_a_prompt_does_not_see_fails_the_request_all_the_same() -> None:
    engine, inbox = engine_for("mistral", max_streams=1), Inbox()
    [poison] = byte_tokenizer()("~")["input_ids"]
    embedding = engine._runner._decoder._model.get_input_embeddings().weight  # type: ignore[attr-defined]
    with torch.no_grad():
        embedding[poison] = float("nan")
    broken = submit(engine, inbox, "~" + TEXT[:600], LENGTH, temperature=0)
    run_until_idle(engine)
    assert isinstance(inbox.end(broken), Failed)
    for prompt in (TEXT[:30], TEXT[:500]):
        answer = generate(engine, prompt)
        assert answer["token_ids"] == expected("mistral", prompt)


# --- The tensors ------------------------------------------------------------------------------------------------------


def test_a_window_is_recognized_by_what_is_visible() -> None:
    device, context = torch.device("cpu"), 500
    assert window_of(causal_within(24), context, device) == 24
    assert window_of(causal, context, device) is None
    assert window_of(causal_within(500), context, device) is None, "all of the context"
    assert window_of(lambda p, k: (k <= p) & (k // 32 == p // 32), context, device) is None, "a chunk"
    assert window_of(lambda p, k: (k <= p) & ((k > p - 24) | (k < 4)), context, device) is None, "with a beginning"
    assert window_of(causal_within(3), 3, device) is None


def test_memory_follows_the_window() -> None:
    cache, device = KVCache(slots=4, context=4096), torch.device("cpu")
    whole = cache.rows.layer(0, 2, 16, torch.float32, device)
    ring = cache.rows.layer(1, 2, 16, torch.float32, device, window=512)
    assert whole.bytes == 2 * 4 * row_length(4096) * 2 * 16 * 4
    assert ring.kept == 512 + SLACK
    assert ring.bytes == 2 * 4 * (512 + SLACK + 1) * 2 * 16 * 4
    assert cache.storage.bytes == whole.bytes + ring.bytes
    assert cache.storage.retention == Retention(whole=768, behind=257)
    assert cache.rows.layer(2, 2, 16, torch.float32, device, window=4000).window is None, "that would be longer"


def test_what_is_stale_in_a_ring_is_cleared_wherever_it_lies() -> None:
    cache = KVCache(slots=2, context=1000, slack=0)
    layer = cache.rows.layer(0, 1, 4, torch.float32, torch.device("cpu"), window=30)
    assert layer.kept == 32
    layer.keys.fill_(1)
    layer.clear(1, 60, 70)
    cleared = [column for column in range(32) if not layer.keys[1, 0, column].any()]
    assert cleared == [0, 1, 2, 3, 4, 5, 28, 29, 30, 31]
    layer.clear(0, 0, 500)
    assert not layer.keys[0, 0, :32].any()


def test_llama_type_models_without_a_window_keep_everything() -> None:
    shape = {name: value for name, value in _SHAPE.items() if name != "sliding_window"}
    checkpoint = Checkpoint(model_of(LlamaConfig(**shape)), byte_tokenizer(), CONTEXT)
    engine = Engine(checkpoint, Config(max_streams=1))
    assert rings(engine) == []
    assert engine._runner.retention == Retention()

"""What a request leaves in its slot, NaN at worst, reaches no other request."""

import pytest
import torch

from config import Config
from engine import Engine
from inference.cache.kv_cache import KVCache
from inference.cache.rows import CachedLayer
from inference.weights.checkpoint import Checkpoint
from tests.support.tiny_models import (
    CONTEXT,
    Inbox,
    byte_tokenizer,
    random_model,
    reference,
    run_until_idle,
    submit,
)

POISON = "~"
LENGTH = 24


def poisonable_engine(architecture: str, max_streams: int) -> Engine:
    """An engine whose model computes NaN from the token of `POISON` on."""
    model = random_model(architecture)
    embedding = model.get_input_embeddings().weight
    assert isinstance(embedding, torch.Tensor)
    checkpoint = Checkpoint(model, byte_tokenizer(), CONTEXT)
    engine = Engine(checkpoint, Config(max_streams=max_streams, prefill_chunk=16))
    [poison_id] = byte_tokenizer()(POISON)["input_ids"]
    with torch.no_grad():
        embedding[poison_id] = float("nan")  # only now: at the start such a model is refused
    return engine


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "mistral"])
def test_nan_in_a_slot_does_not_reach_the_slots_next_request(architecture: str) -> None:
    engine, inbox = poisonable_engine(architecture, max_streams=1), Inbox()
    submit(engine, inbox, "n" * 20 + POISON * 60, max_tokens=20, temperature=0)
    run_until_idle(engine)
    probe = submit(engine, inbox, "xx?", max_tokens=LENGTH, temperature=0)
    run_until_idle(engine)
    assert inbox.token_ids(probe) == reference(architecture, "xx?", LENGTH)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_nan_in_a_slot_does_not_reach_the_neighbours(architecture: str) -> None:
    engine, inbox = poisonable_engine(architecture, max_streams=3), Inbox()
    probes = {}
    for prompt in ("once upon", POISON * 50, "a fox", "2+2="):
        sequence_id = submit(engine, inbox, prompt, max_tokens=LENGTH, temperature=0)
        if prompt[0] != POISON:
            probes[sequence_id] = prompt
    run_until_idle(engine)
    for sequence_id, prompt in probes.items():
        assert inbox.token_ids(sequence_id) == reference(architecture, prompt, LENGTH), prompt


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_what_a_failed_step_left_uncleared_does_not_reach_the_slots_next_request(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, inbox = poisonable_engine(architecture, max_streams=1), Inbox()
    submit(engine, inbox, "n" * 20 + POISON * 60, max_tokens=20, temperature=0)
    run_until_idle(engine)
    with monkeypatch.context() as patched:
        patched.setattr(engine._runner._decoder, "forward", _raise)
        submit(engine, inbox, "ab?", max_tokens=LENGTH, temperature=0)
        run_until_idle(engine)
    probe = submit(engine, inbox, "xx?", max_tokens=LENGTH, temperature=0)
    run_until_idle(engine)
    assert inbox.token_ids(probe) == reference(architecture, "xx?", LENGTH)


def _raise(*_: object) -> None:
    raise RuntimeError("the step is to fail")


def test_a_slot_is_cleared_where_a_shorter_beginning_goes_on_and_nowhere_else() -> None:
    cache = KVCache(slots=2, context=100)
    layer = cache.rows.layer(0, 1, 4, torch.float32, torch.device("cpu"))

    def cleared(slot: int, first: int, last: int) -> list[int]:
        layer.keys.fill_(float("nan"))
        cache.storage.reserve(slot, first, last)
        return [position for position in range(cache.row_length) if not layer.keys[slot, 0, position].any()]

    assert cleared(0, 0, 40) == [], "nothing was there"
    assert cleared(0, 40, 41) == [], "the same request goes on"
    assert cleared(0, 10, 20) == list(range(10, 41)), "another one reuses ten positions"
    assert cleared(0, 20, 21) == []
    assert cleared(1, 0, 1) == [], "the other slot is another slot"


@pytest.mark.parametrize("value_dim", [4, 6])
def test_what_is_stale_is_cleared_and_nothing_else(value_dim: int) -> None:
    cache, device = KVCache(slots=2, context=10), torch.device("cpu")
    layer = cache.rows.layer(0, 1, 4, torch.float32, device, value_dim)
    layer.keys.fill_(float("nan"))
    layer.values.fill_(float("nan"))
    layer.clear(1, 3, 8)
    slot_mapping = cache.rows.slot_mapping(torch.tensor([1]), torch.tensor([3]), cache.row_length)
    layer.write(torch.ones(1, 1, 4), torch.ones(1, 1, value_dim), slot_mapping)
    for tensor in (layer.keys, layer.values):  # [slots, kv_heads, row_length, width]
        assert tensor[1, 0, 3].eq(1).all()
        assert tensor[1, 0, 4:8].eq(0).all()
        assert tensor[0].isnan().all()
        assert tensor[1, 0, :3].isnan().all()
        assert tensor[1, 0, 8:].isnan().all()


@pytest.mark.parametrize("ends", [(40, 60), (60, 40)])
@pytest.mark.parametrize("window", [None, 30])
def test_nothing_lies_behind_a_copied_beginning_but_zeros(window: int | None, ends: tuple[int, int]) -> None:
    cache = KVCache(slots=2, context=100, slack=20)
    layer = cache.rows.layer(0, 1, 4, torch.float32, torch.device("cpu"), window=window)
    for slot, end in enumerate(ends):
        cache.storage.reserve(slot, 0, end)
        layer.keys[slot, :, :end] = float("nan")
    layer.keys[0, :, :35] = torch.arange(1.0, 36).view(1, 35, 1)
    cache.storage.copy(0, 1, 35)
    assert layer.keys[1, 0, :35, 0].tolist() == list(range(1, 36))
    assert not layer.keys[1, :, 35:].any()


def test_what_a_failed_copy_left_is_cleared_for_the_slots_next_text(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = KVCache(slots=2, context=100)
    layer = cache.rows.layer(0, 1, 4, torch.float32, torch.device("cpu"))
    cache.storage.reserve(0, 0, 50)
    cache.storage.reserve(1, 0, 10)
    layer.keys.fill_(float("nan"))
    with monkeypatch.context() as patched:
        patched.setattr(CachedLayer, "clear", _raise)
        with pytest.raises(RuntimeError):
            cache.storage.copy(0, 1, 40)
    cache.storage.reserve(1, 0, 1)
    assert not layer.keys[1, :, :50].any()

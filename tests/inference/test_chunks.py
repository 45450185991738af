"""The cache of the decoder in C++: memory follows tokens, and nothing of another request stays."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from inference.cache.batch import Piece, lay_out
from inference.cache.chunks import KEYS, PAIRED_KEYS, VALUES, Chunks, Layers
from inference.cache.kv_cache import KVCache
from inference.cache.sizes import CHUNK, row_length
from inference.cache.storage import Stale
from inference.decoders.native.decoder import NativeDecoder
from inference.scheduling.cache_manager import Retention
from inference.tensor_thread import on_tensor_thread
from tests.support.native_models import SHAPE, native
from tests.support.tiny_models import model_of

CONTEXT = 4096
MIB = 2**20


def resident_in(storage: Chunks) -> int:
    """How much of the memory that a cache's numbers lie in is there."""
    first = storage.numbers.data_ptr()
    last, total, is_inside = first + storage.bytes, 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            start, end = (int(border, 16) for border in words[0].split("-"))
            is_inside = start < last and first < end
        elif is_inside and words[0] == "Rss:":
            total += 1024 * int(words[1])
    return total


@pytest.fixture(scope="module")
def decoder_and_cache() -> tuple[NativeDecoder, KVCache]:
    """A token takes 32 KiB here, and a slot's row 128 MiB."""
    sizes = {"num_hidden_layers": 64, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 64}
    model = model_of(LlamaConfig(**SHAPE | sizes | {"hidden_size": 32, "max_position_embeddings": CONTEXT}))
    model, cache = nn.Module.to(copy.deepcopy(model), torch.bfloat16), KVCache(8, CONTEXT)
    return on_tensor_thread(lambda: native(model, cache)), cache


def write(decoder: NativeDecoder, cache: KVCache, slot: int, tokens: int) -> None:
    batch = lay_out([], [Piece(slot, 0, [1] * tokens)], cache, torch.device("cpu"))
    with torch.inference_mode():
        on_tensor_thread(lambda: decoder.forward(batch))


def test_a_short_text_takes_a_few_chunks_of_memory_and_not_a_slots_row(
    decoder_and_cache: tuple[NativeDecoder, KVCache],
) -> None:
    decoder, cache = decoder_and_cache
    assert isinstance(cache.storage, Chunks)
    in_chunk, row = cache.bytes // cache.slots // (cache.row_length // CHUNK), cache.bytes // cache.slots
    assert row > 128 * MIB
    before = resident_in(cache.storage)
    write(decoder, cache, 2, 20)
    assert 0 < resident_in(cache.storage) - before <= in_chunk + 4 * MIB, "one chunk, in pages of 2 MiB"
    write(decoder, cache, 4, 2 * CHUNK + 1)
    assert 3 * in_chunk <= resident_in(cache.storage) - before <= 4 * in_chunk + 8 * MIB < row / 2
    before = resident_in(cache.storage)
    cache.copy(4, 6, CHUNK + 5)
    assert 0 < resident_in(cache.storage) - before <= 2 * in_chunk + 4 * MIB
    before = resident_in(cache.storage)
    assert cache.are_finite([(7, 0, CONTEXT)]) == [True]
    assert resident_in(cache.storage) - before <= 4 * MIB, "what is looked at takes none"


# --- By themselves ---------------------------------------------------------------------------------------------------

LAYERS, KV_HEADS, HEAD_DIM = 2, 3, 4


@pytest.fixture(params=[True, False])
def storage(request: pytest.FixtureRequest) -> Chunks:
    chunks = Chunks(3, 2 * CHUNK, Layers(LAYERS, KV_HEADS, HEAD_DIM, torch.float32), are_paired=request.param)
    assert chunks.numbers.shape[1] == row_length(2 * CHUNK) // CHUNK == 3
    return chunks


@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_a_copy_holds_the_beginning_and_no_value_behind_it_is_anothers(storage: Chunks, length: int) -> None:
    storage.numbers[0] = torch.arange(storage.numbers[0].numel()).view_as(storage.numbers[0])
    storage.numbers[1] = float("nan")
    storage.copy(0, 1, length, written=[2 * CHUNK, 2 * CHUNK + 7, 0])
    found, source = (storage.numbers[slot].movedim(0, 3).flatten(3, 4) for slot in (1, 0))  # positions in a row
    # [layers, 2, kv_heads, positions, head_dim]; keys, if they are paired, in blocks.
    whole = length // PAIRED_KEYS * PAIRED_KEYS
    assert torch.equal(found[:, KEYS, :, :whole], source[:, KEYS, :, :whole])
    whole = length // 2 * 2
    assert torch.equal(found[:, VALUES, :, :whole], source[:, VALUES, :, :whole])
    if storage.are_paired:
        behind = found[:, VALUES, :, length + length % 2 : 2 * CHUNK + 7]
        assert not behind.any()
    assert not storage.numbers[2].any(), "the other slot is another slot"


def test_what_is_stale_is_cleared_across_chunks_and_nothing_else(storage: Chunks) -> None:
    storage.numbers.fill_(1)
    storage.clear([Stale(1, CHUNK - 2, 2 * CHUNK + 4)])
    values = storage.numbers[1, :, :, VALUES].movedim(0, 2).flatten(2, 3)  # [layers, kv_heads, positions, head_dim]
    if storage.are_paired:
        assert not values[:, :, CHUNK - 2 : 2 * CHUNK + 4].any()
    assert values[:, :, : CHUNK - 2].all()
    assert values[:, :, 2 * CHUNK + 4 :].all()
    assert storage.numbers[1, :, :, KEYS].all(), "keys behind a text are never used"
    assert storage.numbers[[0, 2]].all()


def test_a_key_that_is_no_number_is_found_at_its_position_alone(storage: Chunks) -> None:
    position = CHUNK + 21
    block, place = position % CHUNK // PAIRED_KEYS, position % PAIRED_KEYS
    keys = storage.numbers[1, 1, -1, KEYS, 2]  # [CHUNK, head_dim]
    if storage.are_paired:
        keys.view(-1, HEAD_DIM // 2, PAIRED_KEYS, 2)[block, 1, place, 0] = float("inf")
    else:
        keys[position % CHUNK, 1] = float("inf")
    spans = [(1, 0, position), (1, position, position + 1), (1, position + 1, 2 * CHUNK), (0, 0, 1), (1, 3, 2 * CHUNK)]
    assert storage.are_finite(spans) == [True, False, True, True, False]
    assert storage.are_finite([]) == []


def test_no_chunk_forgets(storage: Chunks) -> None:
    assert storage.retention == Retention()
    assert storage.bytes == 3 * 3 * CHUNK * LAYERS * 2 * KV_HEADS * HEAD_DIM * 4

"""The cache of the decoder in C++: memory follows tokens, and no data of another request is left in it."""

import copy
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from inference.cache.kv_cache import KVCache
from inference.cache.layout import Piece, lay_out
from inference.cache.pages import KEYS, PAIRED_KEYS, VALUES, Layers, Pages
from inference.cache.sizes import PAGE_TOKENS, row_length
from inference.decoders.native.decoder import NativeDecoder
from inference.model_runner import ModelRunner
from inference.scheduling.cache_manager import Retention
from inference.tensor_thread import on_tensor_thread
from tests.support.native_models import SHAPE, model_named, native
from tests.support.tiny_models import model_of

CONTEXT = 4096
MIB = 2**20
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems provide no memory in advance")


def resident_in(storage: Pages) -> int:
    """How much of a cache's memory is resident."""
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


def test_a_short_text_takes_a_few_pages_of_memory_and_not_a_slots_row(
    decoder_and_cache: tuple[NativeDecoder, KVCache],
) -> None:
    decoder, cache = decoder_and_cache
    assert isinstance(cache.storage, Pages)
    row = cache.storage.bytes // cache.slots
    in_page = row // (cache.row_length // PAGE_TOKENS)
    assert row > 128 * MIB
    before = resident_in(cache.storage)
    write(decoder, cache, 2, 20)
    assert 0 < resident_in(cache.storage) - before <= in_page + 4 * MIB, "one page, in large ones of 2 MiB"
    write(decoder, cache, 4, 2 * PAGE_TOKENS + 1)
    assert 3 * in_page <= resident_in(cache.storage) - before <= 4 * in_page + 8 * MIB < row / 2
    before = resident_in(cache.storage)
    cache.storage.copy(4, 6, 2 * PAGE_TOKENS + 1)
    assert 0 < resident_in(cache.storage) - before <= in_page + 4 * MIB, "two of the three are shared"
    before = resident_in(cache.storage)
    write(decoder, cache, 6, 1)
    write(decoder, cache, 7, PAGE_TOKENS)
    assert resident_in(cache.storage) - before <= 4 * MIB, "it has the page that the other one gave back"
    before = resident_in(cache.storage)
    assert cache.storage.are_finite([(7, 0, CONTEXT)]) == [True]
    assert resident_in(cache.storage) - before <= 4 * MIB, "what is looked at takes none"


@needs_linux
def test_the_first_texts_find_memory_that_is_there_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.cache.pages.PROVIDED", 12 * MIB)
    storage = Pages(8, CONTEXT, Layers(64, 2, 64, torch.bfloat16), are_paired=True)
    assert storage.numbers[0].nbytes == 4 * MIB
    storage.provide().join(30)
    before = resident_in(storage)
    assert before >= 12 * MIB
    fill(storage, 5, 2 * PAGE_TOKENS, 1)
    fill(storage, 1, PAGE_TOKENS, 1)
    assert resident_in(storage) == before
    fill(storage, 2, 2 * PAGE_TOKENS, 1)
    assert resident_in(storage) > before, "the others take memory when they come"


@needs_linux
def test_where_memory_is_short_half_of_it_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.cache.pages.free_memory", lambda device: 8 * MIB)
    storage = Pages(8, CONTEXT, Layers(64, 2, 64, torch.bfloat16), are_paired=True)
    storage.provide().join(30)
    assert resident_in(storage) <= 6 * MIB, "half, and a page"


@needs_linux
def test_an_engine_that_has_been_loaded_provides_that_memory() -> None:
    runner = on_tensor_thread(lambda: ModelRunner(model_named("llama"), slots=4, context=PAGE_TOKENS, is_compiled=True))
    storage = runner._cache.storage
    assert isinstance(storage, Pages)
    for thread in threading.enumerate():
        if thread.name == "memory":
            thread.join(30)
    assert resident_in(storage) >= storage.bytes


# --- By themselves ---------------------------------------------------------------------------------------------------

LAYERS, KV_HEADS, HEAD_DIM = 2, 3, 4
PAGES = 3  # of a slot


@pytest.fixture(params=[True, False])
def storage(request: pytest.FixtureRequest) -> Pages:
    pages = Pages(3, 2 * PAGE_TOKENS, Layers(LAYERS, KV_HEADS, HEAD_DIM, torch.float32), are_paired=request.param)
    assert pages.table.per_slot == row_length(2 * PAGE_TOKENS) // PAGE_TOKENS == PAGES
    return pages


def fill(storage: Pages, slot: int, length: int, number: float) -> None:
    """Let a slot hold a text, with this number wherever its pages have room for one."""
    storage.reserve(slot, 0, length)
    for place in range(storage.table.count(slot)):
        storage.numbers[storage.table.page(slot, place)] = number


def read(storage: Pages, slot: int, kind: int) -> torch.Tensor:
    """A slot's keys or values, [layers, kv_heads, positions, head_dim]; paired ones are not in order within a block."""
    places = [storage.table.page(slot, place) for place in range(storage.table.count(slot))]
    return storage.numbers[places, :, kind].movedim(0, 2).flatten(2, 3)


@pytest.mark.parametrize("length", [1, PAGE_TOKENS - 1, PAGE_TOKENS, PAGE_TOKENS + 1, 2 * PAGE_TOKENS])
def test_a_copy_holds_the_beginning_and_no_value_behind_it_is_anothers(storage: Pages, length: int) -> None:
    fill(storage, 0, 2 * PAGE_TOKENS + 7, 0)
    for kind in (KEYS, VALUES):
        for place in range(PAGES):
            numbers = storage.numbers[storage.table.page(0, place), :, kind]
            numbers[:] = torch.rand(numbers.shape)
    fill(storage, 1, 3 * PAGE_TOKENS, float("nan"))
    fill(storage, 2, 1, 2)
    storage.copy(0, 1, length)
    whole = length // PAIRED_KEYS * PAIRED_KEYS
    assert torch.equal(read(storage, 1, KEYS)[:, :, :whole], read(storage, 0, KEYS)[:, :, :whole])
    whole = length // 2 * 2
    assert torch.equal(read(storage, 1, VALUES)[:, :, :whole], read(storage, 0, VALUES)[:, :, :whole])
    storage.reserve(1, length, 2 * PAGE_TOKENS + 7)
    if storage.are_paired:
        assert not read(storage, 1, VALUES)[:, :, length + length % 2 :].any()
    assert (read(storage, 2, VALUES) == 2).all(), "the other slot is another slot"


def test_texts_share_the_pages_that_their_common_beginning_fills(storage: Pages) -> None:
    fill(storage, 0, 2 * PAGE_TOKENS + 7, 1)
    storage.copy(0, 1, 2 * PAGE_TOKENS + 5)
    pages = [[storage.table.page(slot, place) for place in range(PAGES)] for slot in (0, 1)]
    assert pages[0][:2] == pages[1][:2]
    assert pages[0][2] != pages[1][2]


@pytest.mark.parametrize("first", [0, 5, PAGE_TOKENS, PAGE_TOKENS + 5])
@pytest.mark.parametrize("writer", [0, 1])
def test_what_is_written_to_a_slot_is_not_in_those_that_share_its_beginning(
    storage: Pages, first: int, writer: int
) -> None:
    fill(storage, 0, 2 * PAGE_TOKENS, 1)
    storage.copy(0, 1, 2 * PAGE_TOKENS)
    storage.reserve(writer, first, 2 * PAGE_TOKENS)
    assert read(storage, writer, KEYS)[:, :, :first].all(), "what comes before is kept"
    for place in range(first // PAGE_TOKENS, 2):
        storage.numbers[storage.table.page(writer, place)] = 5
    for kind in (KEYS, VALUES):
        assert (read(storage, 1 - writer, kind) == 1).all()


def test_a_shorter_text_gives_pages_back_and_the_next_one_finds_no_values_in_them(storage: Pages) -> None:
    fill(storage, 0, 2 * PAGE_TOKENS, float("nan"))
    given = storage.table.page(0, 1)
    storage.reserve(0, 3, PAGE_TOKENS)
    storage.reserve(1, 0, PAGE_TOKENS)
    assert storage.table.page(1, 0) == given, "memory that is there already is used first"
    if storage.are_paired:
        assert not read(storage, 1, VALUES).any()


def test_what_an_earlier_text_left_is_cleared_across_pages_and_nothing_else(storage: Pages) -> None:
    for slot in range(3):
        fill(storage, slot, 2 * PAGE_TOKENS + 4, 1)
    storage.reserve(1, PAGE_TOKENS - 2, 2 * PAGE_TOKENS + 1)
    values = read(storage, 1, VALUES)
    if storage.are_paired:
        assert not values[:, :, PAGE_TOKENS - 2 : 2 * PAGE_TOKENS + 4].any()
    assert values[:, :, : PAGE_TOKENS - 2].all()
    assert values[:, :, 2 * PAGE_TOKENS + 4 :].all(), "no text was there"
    assert read(storage, 1, KEYS).all(), "keys behind a text are never used"
    assert read(storage, 0, VALUES).all()
    assert read(storage, 2, VALUES).all()


def test_a_text_that_goes_on_is_left_as_it_is(storage: Pages) -> None:
    fill(storage, 0, PAGE_TOKENS + 5, 1)
    storage.reserve(0, PAGE_TOKENS + 5, PAGE_TOKENS + 6)
    assert read(storage, 0, VALUES).all()


def test_a_key_that_is_no_number_is_found_at_its_position_alone(storage: Pages) -> None:
    for slot in (0, 1):
        fill(storage, slot, 2 * PAGE_TOKENS, 0)
    position = PAGE_TOKENS + 21
    block, place = position % PAGE_TOKENS // PAIRED_KEYS, position % PAIRED_KEYS
    keys = storage.numbers[storage.table.page(1, 1), -1, KEYS, 2]  # [PAGE_TOKENS, head_dim]
    if storage.are_paired:
        keys.view(-1, HEAD_DIM // 2, PAIRED_KEYS, 2)[block, 1, place, 0] = float("inf")
    else:
        keys[position % PAGE_TOKENS, 1] = float("inf")
    end = 2 * PAGE_TOKENS
    spans = [(1, 0, position), (1, position, position + 1), (1, position + 1, end), (0, 0, 1), (1, 3, end)]
    assert storage.are_finite(spans) == [True, False, True, True, False]
    assert storage.are_finite([]) == []


def test_no_page_forgets(storage: Pages) -> None:
    assert storage.retention == Retention()
    assert storage.bytes == 3 * PAGES * PAGE_TOKENS * LAYERS * 2 * KV_HEADS * HEAD_DIM * 4

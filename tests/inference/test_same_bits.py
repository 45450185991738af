"""In the decoder in C++ a token has the same logits, to the bit, alone and among others, and in any chunks."""

import copy
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from inference.cache.kv_cache import KVCache
from inference.cache.layout import Piece, lay_out
from inference.cache.pages import KEYS, PAIRED_KEYS, VALUES, Pages
from inference.cache.sizes import PAGE_TOKENS
from inference.decoders.native.decoder import NativeDecoder
from inference.tensor_thread import on_tensor_thread
from tests.support.native_models import CONTEXT, INSTRUCTIONS, VOCABULARY, model_named, native

SLOTS = 65  # the first holds the text whole; beginnings are copied from it
TEXT = torch.randint(VOCABULARY, (PAGE_TOKENS + 12,), generator=torch.Generator().manual_seed(4)).tolist()
NO_TILES = "AVX-512, no tiles"


@dataclass(frozen=True)
class Kind:
    """A model, its precision, and the instructions that the decoder may use."""

    model: str
    dtype: torch.dtype
    quantize: str | None = None
    instructions: str = NO_TILES  # with tiles, the products of a single row are computed without them


KINDS = MappingProxyType(
    {
        "bfloat16": Kind("llama", torch.bfloat16),
        "bfloat16, eight heads in a group": Kind("llama, long heads", torch.bfloat16),
        "bfloat16, AVX2": Kind("qwen3", torch.bfloat16, instructions="AVX2 alone"),
        "bfloat16, windows": Kind("gemma2", torch.bfloat16),
        "float32": Kind("llama", torch.float32),
        "float32, windows": Kind("gemma2", torch.float32),
        "bfloat16, experts": Kind("qwen3 moe", torch.bfloat16),
        "bfloat16, sinks": Kind("gpt-oss", torch.bfloat16),
        "float32, experts": Kind("mixtral", torch.float32),
        "int8, experts": Kind("qwen3 moe, some layers", torch.bfloat16, "int8"),
        "int8": Kind("qwen3", torch.bfloat16, "int8"),
        "int4": Kind("llama, one group", torch.bfloat16, "int4"),
    }
)
Steps = Sequence[int]
"""How many tokens of a text each step takes."""


@dataclass(frozen=True)
class Company:
    """Another text, which begins with this token and takes so many tokens in each step."""

    first_token: int
    chunk: int


@cache
def decoder_of(name: str) -> tuple[NativeDecoder, KVCache]:
    kind, cache = KINDS[name], KVCache(SLOTS, CONTEXT)
    model = nn.Module.to(copy.deepcopy(model_named(kind.model)), kind.dtype)
    return on_tensor_thread(lambda: native(model, cache, kind.quantize)), cache


@cache
def logits_alone(name: str) -> Tensor:
    """The text's logits [tokens, vocabulary], prefilled whole, in slot 0."""
    return logits_among(name, 0, 0, [len(TEXT)], [])


@torch.inference_mode()
def logits_among(name: str, slot: int, cached: int, chunks: Steps, others: Sequence[Company]) -> Tensor:
    """The text's logits from token `cached` on, in steps that other slots take part in."""
    decoder, cache = decoder_of(name)
    free = [number for number in range(1, SLOTS) if number != slot]
    ends = [0] * len(others)
    found, first = [], cached
    for size in chunks:
        mine = Piece(slot, first, TEXT[first : first + size], sampled=0, scored=size)
        first += size
        decoding: list[Piece] = []
        prefilling: list[Piece] = []
        for place, other in enumerate(others):
            ids = [(other.first_token + i) % VOCABULARY for i in range(ends[place], ends[place] + other.chunk)]
            start = ends[place] if ends[place] + other.chunk <= CONTEXT else 0
            (decoding if other.chunk == 1 else prefilling).append(Piece(free[place], start, ids))
            ends[place] = start + other.chunk
        batch = lay_out(decoding, [*prefilling, mine], cache, torch.device("cpu"))
        found.append(on_tensor_thread(partial(decoder.forward, batch))[-size:])
    return torch.cat(found)


def cut(total: int, sizes: Steps) -> list[int]:
    """`total` tokens in chunks of these sizes, the last of which is repeated."""
    chunks: list[int] = []
    rest = total
    while rest:
        size = min(rest, sizes[min(len(chunks), len(sizes) - 1)])
        chunks.append(size)
        rest -= size
    return chunks


def pages_of(cache: KVCache) -> Pages:
    assert isinstance(cache.storage, Pages)
    return cache.storage


def spoil(cache: KVCache, slot: int, first: int = 0) -> None:
    """Let a slot hold a text that is NaN from `first` on."""
    cache.storage.reserve(slot, first, CONTEXT)
    storage = pages_of(cache)
    for place in range(storage.table.count(slot)):
        numbers = storage.numbers[storage.table.page(slot, place)]  # [layers, 2, kv_heads, PAGE_TOKENS, head_dim]
        for kind, together in ((KEYS, PAIRED_KEYS), (VALUES, 2)):
            whole = -(-first // together) * together
            numbers[:, kind, :, max(whole - place * PAGE_TOKENS, 0) :] = float("nan")


def compile_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the compiler use a kind's instructions, on processors that have a choice."""
    if platform.machine() == "x86_64":
        monkeypatch.setenv("CXXFLAGS", INSTRUCTIONS[KINDS[name].instructions])


@pytest.mark.parametrize("name", KINDS)
def test_a_texts_logits_are_the_same_bits_in_any_chunks_and_among_any_others(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_for(name, monkeypatch)
    expected = logits_alone(name)

    @settings(max_examples=12, deadline=None)
    @given(
        slot=st.integers(1, SLOTS - 1),
        cached=st.integers(0, len(TEXT) - 1),
        sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
        others=st.lists(
            st.builds(Company, st.integers(0, VOCABULARY - 1), st.sampled_from([1, 1, 1, 2, 5, 17])),
            max_size=SLOTS - 2,
        ),
    )
    def check(slot: int, cached: int, sizes: Steps, others: Sequence[Company]) -> None:
        _, cache = decoder_of(name)
        cache.storage.copy(0, slot, cached)
        found = logits_among(name, slot, cached, cut(len(TEXT) - cached, sizes), others)
        assert torch.equal(found, expected[cached:])

    check()


@pytest.mark.parametrize("name", KINDS)
@torch.inference_mode()
def test_logits_are_the_same_bits_whichever_other_tokens_logits_are_wanted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_for(name, monkeypatch)
    expected, (decoder, cache) = logits_alone(name), decoder_of(name)

    def logits_of(*pieces: Piece) -> Tensor:
        return on_tensor_thread(partial(decoder.forward, lay_out([], pieces, cache, torch.device("cpu"))))

    assert logits_of(Piece(1, 0, TEXT[:7], sampled=0)).shape == (0, VOCABULARY)
    found = logits_of(Piece(2, 0, TEXT, sampled=2, scored=3), Piece(3, 0, TEXT[:9], sampled=0), Piece(1, 7, TEXT[7:12]))
    assert torch.equal(found, torch.cat([expected[-2:], expected[11:12], expected[:3]]))


@pytest.mark.parametrize("name", KINDS)
def test_what_a_slot_held_before_changes_no_bit_even_if_it_is_no_number(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_for(name, monkeypatch)
    expected, (_, cache), slot = logits_alone(name), decoder_of(name), 3
    spoil(cache, slot)
    assert cache.storage.are_finite([(slot, 0, 1), (slot, len(TEXT), CONTEXT), (0, 0, len(TEXT))]) == [
        False,
        False,
        True,
    ]
    assert torch.equal(logits_among(name, slot, 0, cut(len(TEXT), [31, 1]), []), expected)
    pieces = [(slot, 0, len(TEXT)), (slot, len(TEXT) - 1, len(TEXT)), (slot, len(TEXT), len(TEXT) + 1)]
    assert cache.storage.are_finite(pieces) == [True, True, False]


@pytest.mark.parametrize("name", KINDS)
def test_what_lay_behind_a_copied_beginning_changes_no_bit_even_if_it_is_no_number(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_for(name, monkeypatch)
    expected, (_, cache) = logits_alone(name), decoder_of(name)
    source, target, length = 5, 6, 34
    logits_among(name, source, 0, [length], [])
    spoil(cache, source, length)
    spoil(cache, target)
    cache.storage.copy(source, target, length)
    assert torch.equal(logits_among(name, target, length, cut(len(TEXT) - length, [1, 1, 9]), []), expected[length:])


@pytest.mark.parametrize("name", KINDS)
def test_a_page_that_another_slot_gave_back_changes_no_bit_even_if_it_is_nan(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_for(name, monkeypatch)
    expected, (_, cache), giver, taker = logits_alone(name), decoder_of(name), 8, 9
    cache.storage.reserve(taker, 0, 1)
    spoil(cache, giver)
    given = pages_of(cache).table.page(giver, 1)
    cache.storage.reserve(giver, 0, 1)
    assert torch.equal(logits_among(name, taker, 0, cut(len(TEXT), [PAGE_TOKENS + 1, 1]), []), expected)
    assert pages_of(cache).table.page(taker, 1) == given


@pytest.mark.parametrize("name", KINDS)
def test_a_new_text_in_a_slot_changes_no_bit_of_the_texts_that_share_its_beginning(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_for(name, monkeypatch)
    expected, (_, cache), source, targets = logits_alone(name), decoder_of(name), 10, (11, 12)
    logits_among(name, source, 0, [len(TEXT)], [])
    for target in targets:
        cache.storage.copy(source, target, PAGE_TOKENS + 3)
    assert len({pages_of(cache).table.page(slot, 0) for slot in (source, *targets)}) == 1, "there is one for all three"
    kept = 40
    assert torch.equal(logits_among(name, source, kept, cut(len(TEXT) - kept, [7]), []), expected[kept:])
    spoil(cache, targets[0])
    rest = cut(len(TEXT) - PAGE_TOKENS - 3, [2])
    assert torch.equal(logits_among(name, targets[1], PAGE_TOKENS + 3, rest, []), expected[PAGE_TOKENS + 3 :])


@pytest.mark.parametrize("name", KINDS)
def test_the_border_of_a_page_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_for(name, monkeypatch)
    expected, (_, cache), slot = logits_alone(name), decoder_of(name), 7
    for length in (PAGE_TOKENS - 1, PAGE_TOKENS, PAGE_TOKENS + 1):
        assert torch.equal(logits_among(name, slot, 0, cut(len(TEXT), [length, 1]), []), expected)
    for guessed in range(1, 5):  # several tokens in a step, some of them behind the border
        chunks = cut(len(TEXT) - PAGE_TOKENS + 3, [guessed + 1])
        assert torch.equal(logits_among(name, slot, PAGE_TOKENS - 3, chunks, []), expected[PAGE_TOKENS - 3 :])
    for length in (1, PAGE_TOKENS - 1, PAGE_TOKENS, PAGE_TOKENS + 1):
        cache.storage.copy(0, slot, length)
        assert torch.equal(logits_among(name, slot, length, cut(len(TEXT) - length, [1, 40]), []), expected[length:])

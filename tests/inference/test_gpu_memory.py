"""The cache on a real GPU: the driver gives memory where there are tokens, and takes it back."""

import gc
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from config import Config
from engine import Engine
from inference.cache.gpu_pages import GpuPages
from inference.cache.reserved import PIECE, CudaDriver, Reserved, Whole
from inference.cache.sizes import row_length
from inference.weights.checkpoint import Checkpoint
from tests.support.tiny_models import Inbox, byte_tokenizer, model_of, run_until_idle, submit
from tests.support.triton_interpreter import IS_INTERPRETED

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(IS_INTERPRETED, reason="asks a GPU's driver")]

CUDA = torch.device("cuda")
CONTEXT = 20_000
LONG = "a long text, " * 1000
SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": CONTEXT,
}


def test_addresses_get_memory_that_can_be_written_and_copied() -> None:
    reserved = Reserved(1000 * PIECE, CUDA, CudaDriver(CUDA))
    numbers = reserved.tensor()
    reserved.back(500 * PIECE, 503 * PIECE)
    assert reserved.backed_bytes == 4 * PIECE  # with the first one, for the tensor
    numbers[500 * PIECE : 503 * PIECE] = torch.arange(3 * PIECE, device="cuda").to(torch.uint8)
    numbers[5:PIECE] = numbers[501 * PIECE + 2 : 502 * PIECE - 3]
    reserved.back(PIECE, 2 * PIECE)
    numbers[PIECE : 2 * PIECE] = 7
    assert numbers[5:9].tolist() == [2, 3, 4, 5]
    del reserved
    gc.collect()
    assert int(numbers[PIECE : 2 * PIECE].sum(dtype=torch.int64)) == 7 * PIECE, "a tensor over it is left"


def test_memory_goes_back_when_nothing_uses_it() -> None:
    _, whole = torch.cuda.mem_get_info()
    for _ in range(12):
        reserved = Reserved(whole // 8, CUDA, CudaDriver(CUDA))
        reserved.back(0, whole // 8)
        reserved.tensor()[-1] = 1
        del reserved
        gc.collect()


def new_engine() -> Engine:
    model = model_of(LlamaConfig(**SHAPE, vocab_size=300, tie_word_embeddings=True))
    nn.Module.to(model, device="cuda", dtype=torch.bfloat16)
    checkpoint = Checkpoint(model, byte_tokenizer(), CONTEXT)
    return Engine(checkpoint, Config(max_streams=8, compile=True))


def pages_of(engine: Engine) -> GpuPages:
    pages = engine._runner._cache.storage
    assert isinstance(pages, GpuPages), engine._runner.decoder_name
    return pages


def answers(engine: Engine, *prompts: str) -> list[list[int]]:
    inbox = Inbox()
    numbers = [submit(engine, inbox, prompt, max_tokens=80, temperature=0, ignore_eos=True) for prompt in prompts]
    run_until_idle(engine)
    return [inbox.token_ids(number) for number in numbers]


def test_an_engine_takes_memory_as_its_texts_grow() -> None:
    engine = new_engine()
    pages = pages_of(engine)
    assert pages.backed_bytes <= 4 * PIECE  # the start's check has used some slots
    answers(engine, *["hello"] * 8)
    short = pages.backed_bytes
    assert short <= 16 * PIECE  # a slot may begin within a piece
    answers(engine, LONG)
    of_text = len(LONG) * (pages.bytes // (8 * row_length(CONTEXT)))
    assert 0.8 * of_text <= pages.backed_bytes - short <= of_text + 2 * PIECE
    before = pages.backed_bytes
    answers(engine, LONG + "again", "something else", "hello")
    assert pages.backed_bytes - before <= of_text + 4 * PIECE
    assert pages.backed_bytes < pages.bytes / 2


def test_its_texts_are_those_of_an_engine_that_has_all_memory_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = new_engine()
    found = [answers(engine, prompt) for prompt in ("hello", LONG, LONG[:9000] + "another end", "hello again")]
    assert pages_of(engine).backed_bytes < pages_of(engine).bytes / 2
    monkeypatch.setattr("inference.cache.gpu_pages.memory_of", Whole)
    engine = new_engine()
    assert pages_of(engine).backed_bytes >= pages_of(engine).bytes
    assert [answers(engine, prompt) for prompt in ("hello", LONG, LONG[:9000] + "another end", "hello again")] == found

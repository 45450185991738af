"""The engine on Triton kernels from the first token to the last: on a GPU, or in Triton's interpreter."""

import functools
import importlib
from typing import Any

import pytest
from torch import Tensor, nn
from transformers import PreTrainedModel

from config import Config
from engine import Engine
from inference.cache.kv_cache import KVCache
from inference.decoders.ahead import Ahead
from inference.decoders.decoder import Decoder
from inference.decoders.gpu.graphs import GraphedSteps
from inference.decoders.select import select_decoder
from inference.weights.checkpoint import Checkpoint
from inference.weights.take_apart import take_apart
from tests.support.tiny_models import CONFIGS, CONTEXT, Inbox, byte_tokenizer, model_of, run_until_idle, submit
from tests.support.triton_interpreter import DEVICE, IS_INTERPRETED, mend_interpreter

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]  # the interpreter takes half a minute

LENGTH = 5
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.8, "seed": 1, "top_p": 0.9},
    {"temperature": 0},
    {"temperature": 1.0, "seed": 2, "top_k": 9, "min_p": 0.01},
    {"temperature": 0.9, "seed": 3, "repetition_penalty": 1.3, "logit_bias": {40: 2.0}},
]


@pytest.fixture
def kernels_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU, the engine takes the CPU for one, whose kernels are interpreted and whose graphs are functions."""
    if not IS_INTERPRETED:
        return
    mend_interpreter(monkeypatch)
    monkeypatch.setattr("inference.decoders.gpu.kernels.rows.MOST_PARTS", 2)  # programs run one after the other here
    decoder = importlib.import_module("inference.decoders.gpu.decoder")
    chooser = importlib.import_module("inference.decoders.gpu.chooser")

    def select_ahead(model: PreTrainedModel, cache: KVCache, is_compiled: bool, quantize: str | None) -> Decoder:
        if not is_compiled:
            return select_decoder(model, cache)
        taken_apart = take_apart(model, cache.row_length)
        return GraphedSteps(decoder.KernelDecoder(taken_apart, cache), cache.slots, DEVICE, lambda work: work)

    monkeypatch.setattr("inference.model_runner.select_decoder", select_ahead)
    monkeypatch.setattr("inference.model_runner.device_chooser_for", lambda *settings: chooser.KernelChooser(DEVICE))


def answers(device: Any, compile: bool) -> list[list[int]]:
    model = model_of(CONFIGS["llama"]())
    nn.Module.to(model, device)
    checkpoint = Checkpoint(model, byte_tokenizer(), CONTEXT)
    engine, inbox = Engine(checkpoint, Config(max_streams=len(SETTINGS), compile=compile)), Inbox()
    numbers = [
        submit(engine, inbox, "Hello!"[:n], max_tokens=LENGTH, **parameters) for n, parameters in enumerate(SETTINGS, 2)
    ]
    run_until_idle(engine)
    return [inbox.token_ids(number) for number in numbers]


@pytest.mark.usefixtures("kernels_everywhere")
def test_sampled_and_greedy_streams_say_what_they_say_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bool] = []
    take = Ahead.claim

    @functools.wraps(take)
    def noted(ahead: Ahead, schedule: Any) -> Tensor | None:
        logits = take(ahead, schedule)
        taken.append(logits is not None)
        return logits

    monkeypatch.setattr(Ahead, "claim", noted)
    found = answers(DEVICE, compile=True)
    assert taken.count(True) > len(taken) / 2, "most steps were begun before the last one's tokens were read"
    assert found == answers("cpu", compile=False)

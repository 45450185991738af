"""ENGINE_COMPILE=1 on models whose layers torch compiles: the same answers, and no later wait for the compiler."""

import logging
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor.exc import InvalidCxxCompiler

from inference.tensor_thread import on_tensor_thread
from tests.support.compilers import needs_compiler
from tests.support.tiny_models import Inbox, reference, run_until_idle, submit, tiny_engine

PROMPTS = ["a", "Hello, world", "x" * 100, "once upon a time there was a fox"]
LENGTH = 24


@pytest.fixture(autouse=True)
def _forget_graphs() -> Any:
    """A test's graphs are its own: the compiler keeps at most eight per function of a model."""
    on_tensor_thread(torch.compiler.reset)
    yield
    on_tensor_thread(torch.compiler.reset)


def engine_records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the engine has logged. torch logs too, that it finds no GPU for example, if it was built for CUDA."""
    return [record for record in caplog.records if record.name == "engine"]


@needs_compiler
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default", "ignore:`torch.jit.script_method` is deprecated")  # the compiler's own
@pytest.mark.parametrize("architecture", ["cohere2", "gpt2"])
def test_a_compiled_model_says_what_generate_says_alone_and_in_a_batch(
    architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "engine"):
        engine, inbox = tiny_engine(architecture, compile=True, max_streams=3, prefill_chunk=16), Inbox()
    assert [record.message[:8] for record in engine_records(caplog)] == ["No decod", "Compilin", "Compiled"]
    made = counters["stats"]["unique_graphs"]
    assert made > 0

    alone = engine.generate(PROMPTS[0], max_tokens=LENGTH, temperature=0)["token_ids"]
    assert alone == reference(architecture, PROMPTS[0], LENGTH)
    probes = {submit(engine, inbox, prompt, max_tokens=LENGTH, temperature=0): prompt for prompt in PROMPTS}
    run_until_idle(engine)
    for probe, prompt in probes.items():
        assert inbox.token_ids(probe) == reference(architecture, prompt, LENGTH), prompt
    assert counters["stats"]["unique_graphs"] == made, "a request had to wait for the compiler"


def test_without_a_compiler_the_engine_says_so_and_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler() -> None:
        raise InvalidCxxCompiler

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", no_compiler)
    with torch._inductor.config.patch(force_disable_caches=True):
        engine = tiny_engine("gpt2", compile=True)
    warnings = [record.message for record in engine_records(caplog) if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith("The model runs uncompiled: ")
    answer = engine.generate("Hello, world", max_tokens=LENGTH, temperature=0)
    assert answer["token_ids"] == reference("gpt2", "Hello, world", LENGTH)

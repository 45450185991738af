"""Every language model of transformers, small and random, answers as `generate` does, or is refused.

docs/models.md has a verdict for each. What it says is served must be served, and nothing may be answered wrongly.
"""

from collections.abc import Iterator

import pytest

from inference.tensor_thread import on_tensor_thread
from inference.weights.quiet import quiet
from study.architectures.__main__ import document, read_table
from study.architectures.checkpoints import MODEL_TYPES, small_model
from study.architectures.sweep import EQUAL, LENGTHS, NOT_TRIED, WRONG, Verdict, compare, examine, generated, prompt_of
from tests.support.compilers import needs_compiler

TABLE = read_table()


@pytest.fixture(autouse=True)
def _without_reports() -> Iterator[None]:
    with quiet():
        yield


def kind(verdict: Verdict) -> str:
    return verdict.outcome.partition(":")[0]


def test_the_table_has_every_architecture_and_is_as_the_command_makes_it() -> None:
    assert sorted(TABLE) == sorted(MODEL_TYPES)
    assert sum(verdict.outcome.startswith(EQUAL) for verdict in TABLE.values()) >= 100
    assert read_table(document(TABLE)) == TABLE


@pytest.mark.filterwarnings("default")  # the architectures' own
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_an_architecture_is_answered_as_generate_does_or_refused(model_type: str) -> None:
    verdict = on_tensor_thread(lambda: examine(model_type))
    assert kind(verdict) != WRONG, verdict.outcome
    if kind(TABLE[model_type]) != NOT_TRIED:
        assert (verdict.decoder, kind(verdict)) == (TABLE[model_type].decoder, kind(TABLE[model_type])), verdict.outcome


@needs_compiler
@pytest.mark.timeout(120)
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_llama_type_compiled_answers_as_generate_does(model_type: str) -> None:
    model = small_model(model_type, hidden_size=64, head_dim=16, use_sliding_window=False, sliding_window=None)
    prompts = [prompt_of(length) for length in LENGTHS]
    expected = [generated(model, prompt) for prompt in prompts]
    decoder, outcome = on_tensor_thread(lambda: compare(model, prompts, expected, is_compiled=True))
    assert (decoder, outcome) == ("C++", EQUAL)


def test_a_wrong_answer_would_be_noticed() -> None:
    model, prompts = small_model("gpt2"), [prompt_of(length) for length in LENGTHS]
    expected = [generated(model, prompt) for prompt in prompts]
    expected[1] = expected[1][::-1]
    _, outcome = on_tensor_thread(lambda: compare(model, prompts, expected))
    assert outcome == f"{WRONG}: 3 tokens alone, 3 tokens together"

"""Models that see or hear as well answer texts as `generate` does; what takes in no text alone is refused."""

import gc
import json
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from config import Config
from engine import Engine
from inference.weights.quiet import quiet
from interface.errors import LoadError
from interface.requests import TokenPrompt
from study.architectures.checkpoints import small_model
from study.architectures.sweep import NEW_TOKENS, generated, prompt_of
from tests.support.checkpoint_folders import load, save
from tests.support.compilers import needs_compiler

LLAMA_TYPE = {"hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
LLAMA_TYPE |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 320, "max_position_embeddings": 256}
LANGUAGE_MODELS = {"mistral3": "mistral", "internvl": "qwen2", "llava": "llama"}
"""The types of language models, by those of models that see."""


def model_that_sees(model_type: str) -> PreTrainedModel:
    """A small one whose language model is of the Llama type, and in which what sees has as many layers."""
    text = LLAMA_TYPE | {"model_type": LANGUAGE_MODELS[model_type], "sliding_window": None}
    with quiet():
        return small_model(model_type, text_config=text)


def engine_for(model: PreTrainedModel, folder: Path, is_compiled: bool = False, quantize: str | None = None) -> Engine:
    with quiet():
        path = str(save(folder, model))
        return Engine.load(
            Config(path, device="cpu", max_streams=2, prefill_chunk=16, compile=is_compiled, quantize=quantize)
        )


def answer_of(engine: Engine, prompt: list[int]) -> list[int]:
    answer = engine.generate(TokenPrompt(prompt), max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
    token_ids: list[int] = answer["token_ids"]
    return token_ids


@pytest.mark.filterwarnings("default")  # the architecture's own
@pytest.mark.parametrize("model_type", ["mistral3", "qwen2_5_vl", "qwen2_audio", "voxtral"])
def test_a_model_of_several_senses_answers_texts_as_generate_does_and_keeps_no_other_sense(
    model_type: str, tmp_path: Path
) -> None:
    with quiet():
        model, prompts = small_model(model_type), [prompt_of(length) for length in (40, 3)]
        before = {id(thing) for thing in models_in_memory()}
        engine = engine_for(model, tmp_path)
        kept = {type(thing.config).__name__ for thing in models_in_memory() if id(thing) not in before}
        assert not [name for name in kept if name.endswith(("VisionConfig", "EncoderConfig"))]
        for prompt in [*prompts, [*prompts[0], 7]]:  # the last begins in the cache
            assert answer_of(engine, prompt) == generated(model, prompt)


@needs_compiler
@pytest.mark.parametrize(("model_type", "quantize"), [("mistral3", None), ("internvl", "int8")])
def test_a_language_model_of_the_llama_type_is_taken_out_of_one_that_sees(
    model_type: str, quantize: str | None, tmp_path: Path
) -> None:
    model = model_that_sees(model_type)
    expected = [generated(model, prompt) for prompt in (prompt_of(40), prompt_of(3))]
    engine = engine_for(model, tmp_path, is_compiled=True, quantize=quantize)
    assert engine._runner.decoder_name == "C++"
    if quantize is None:
        assert [answer_of(engine, prompt) for prompt in (prompt_of(40), prompt_of(3))] == expected


def test_what_a_model_sees_with_takes_no_memory_once_its_language_model_is_taken_out(tmp_path: Path) -> None:
    before = {id(model) for model in models_in_memory()}
    engine = engine_for(model_that_sees("llava"), tmp_path)
    assert engine._runner.decoder_name == "operators of torch"
    assert not [model for model in models_in_memory() if id(model) not in before]


def models_in_memory() -> list[PreTrainedModel]:
    gc.collect()
    return [thing for thing in gc.get_objects() if issubclass(type(thing), PreTrainedModel)]


@pytest.mark.parametrize("model_type", ["blip-2", "florence2", "vision-encoder-decoder", "clip", "t5"])
def test_what_does_not_continue_texts_is_refused_by_its_type(model_type: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(LoadError, match=f"config.json: model_type '{model_type}' is not a causal language model"):
        load(tmp_path)


def test_a_model_that_needs_another_package_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(config_class: object) -> bool:
        raise ModuleNotFoundError("No module named 'scipy'")

    monkeypatch.setattr("inference.weights.folder.continues_texts", missing)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "inkling_mm_model"}))
    with pytest.raises(LoadError, match="model_type 'inkling_mm_model' cannot be used here: No module named 'scipy'"):
        load(tmp_path)

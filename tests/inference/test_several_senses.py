"""Models that see or hear as well answer texts as `generate` does; what takes in no text alone is refused."""

import json
from pathlib import Path

import pytest

from config import Config
from engine import Engine
from inference.weights.quiet import quiet
from interface.errors import LoadError
from interface.requests import TokenPrompt
from study.architectures.checkpoints import small_model
from study.architectures.sweep import NEW_TOKENS, generated, prompt_of
from tests.support.checkpoint_folders import load, save


@pytest.mark.filterwarnings("default")  # the architecture's own
@pytest.mark.parametrize("model_type", ["mistral3", "qwen2_5_vl", "voxtral"])
def test_a_model_of_several_senses_answers_texts_as_generate_does(model_type: str, tmp_path: Path) -> None:
    with quiet():
        model, prompts = small_model(model_type), [prompt_of(length) for length in (40, 3)]
        engine = Engine.load(Config(model=str(save(tmp_path, model)), device="cpu", max_streams=2, prefill_chunk=16))
        for prompt in [*prompts, [*prompts[0], 7]]:  # the last begins in the cache
            answer = engine.generate(TokenPrompt(prompt), max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
            assert answer["token_ids"] == generated(model, prompt)


@pytest.mark.parametrize("model_type", ["blip-2", "florence2", "vision-encoder-decoder", "clip", "t5"])
def test_what_does_not_continue_texts_is_refused_by_its_type(model_type: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(LoadError, match=f"config.json: model_type '{model_type}' is no causal language model"):
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

"""For every architecture, a checkpoint's files are checked before its model is made."""

import json
import sys
from pathlib import Path

import pytest
import torch

from config import Config
from engine import Engine
from inference.weights.config_numbers import check_numbers
from inference.weights.context import CacheBudget, choose_context, reach_of
from inference.weights.quiet import quiet
from interface.errors import LoadError
from interface.requests import TokenPrompt
from study.architectures.checkpoints import MODEL_TYPES, NotTried, small_config, small_model
from study.architectures.sweep import generated, prompt_of
from tests.support.checkpoint_folders import edit_json, save


def test_every_architectures_config_says_how_long_its_texts_are_and_what_they_take() -> None:
    checked = 0
    for model_type in MODEL_TYPES:
        with quiet():
            try:
                config = small_config(model_type)
                text = config.get_text_config()
            except (NotTried, ValueError):
                continue
        budget = CacheBudget.of(config, torch.float32, torch.device("cpu"), slots=4, weight_bytes=1)
        assert choose_context(None, config, budget) > 0, model_type
        assert (reach_of(text) or 1) > 0, model_type
        settings = json.loads(config.to_json_string(use_diff=False))
        check_numbers(Path(f"{model_type}.json"), settings, elements=sys.maxsize)
        checked += 1
    assert checked > 150


@pytest.mark.filterwarnings("default")  # the architecture's own
@pytest.mark.parametrize("model_type", ["gemma4", "gemma4_text"])
def test_layers_of_different_widths_and_towers_with_infinite_bounds_are_loaded(model_type: str, tmp_path: Path) -> None:
    with quiet():
        model, prompt = small_model(model_type), prompt_of(40)
        engine = Engine.load(Config(model=str(save(tmp_path, model)), device="cpu", max_streams=2))
        answer = engine.generate(TokenPrompt(prompt), max_tokens=6, temperature=0, ignore_eos=True)
        assert answer["token_ids"] == generated(model, prompt)


def test_layers_with_windows_that_the_model_does_not_read_are_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, small_model("mistral", sliding_window=None))
    edit_json(folder / "config.json", per_layer_config={"0": {"sliding_window": 24}, "1": {"sliding_window": 16}})
    with quiet(), pytest.raises(LoadError, match="'sliding_window' is a per-layer attribute"):
        Engine.load(Config(model=str(folder), device="cpu"))

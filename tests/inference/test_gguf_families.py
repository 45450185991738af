"""GGUF files of every family of architectures are read as the models that were written, or refused."""

import re
from pathlib import Path

import pytest
from transformers import PreTrainedConfig

from config import Config
from engine import Engine
from inference.weights.gguf.architectures import ARCHITECTURES
from tests.support.checkpoint_folders import load
from tests.support.gguf_families import WRITTEN
from tests.support.gguf_files import same_weights, write_gguf
from tests.support.gguf_models import CONFIGS, FAMILIES, model_with_norms
from tests.support.tiny_models import (
    bpe_tokenizer,
    reference_output,
    transformers_model,
)

PROMPT = "the cat sat on the mat, the cat sat still"


def test_every_architecture_is_among_those_that_are_tried() -> None:
    tried = {WRITTEN[config.model_type].architecture for config in FAMILIES} | CONFIGS.keys()
    assert tried == ARCHITECTURES.keys()


def test_the_documentation_lists_every_architecture() -> None:
    _, _, table = Path("docs/checkpoints.md").read_text().partition("| family | `general.architecture` |")
    rows = re.findall(r"^\| .* \| ([a-z0-9_, -]+) \|$", table.partition("\n\n")[0], re.MULTILINE)
    assert sorted(", ".join(rows).split(", ")) == sorted(ARCHITECTURES)


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_a_file_says_what_the_model_that_was_written_says(config: PreTrainedConfig, tmp_path: Path) -> None:
    model = model_with_norms(config)
    path = write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer())
    checkpoint = load(path)
    loaded = transformers_model(checkpoint)
    assert loaded.config.model_type == config.model_type
    if config.model_type != "nemotron":  # adding 1 to its norms and taking it away again rounds
        assert same_weights(loaded, model)
    prompt_ids = bpe_tokenizer()(PROMPT)["input_ids"]
    answer = Engine(checkpoint, Config()).generate(PROMPT, max_tokens=12, temperature=0, ignore_eos=True)
    assert answer["token_ids"] == reference_output(model, prompt_ids, 12)
    assert len(set(answer["token_ids"])) > 1

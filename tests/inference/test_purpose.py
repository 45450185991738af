"""Models that do something else than continue texts are refused by what their files say that they do."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from inference.weights.folder import Folder
from interface.errors import LoadError
from tests.support.checkpoint_folders import edit_json, load, save
from tests.support.tiny_models import random_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path, random_model("llama"))


def refusal(folder: Path) -> str:
    with pytest.raises(LoadError) as refused:
        Folder(folder, "model")
    return str(refused.value)


@pytest.mark.parametrize(
    ("head", "purpose"),
    [
        ("SequenceClassification", "gives grades to texts"),
        ("TokenClassification", "gives grades to texts"),
        ("QuestionAnswering", "finds answers in a text"),
    ],
)
def test_a_llama_with_another_head_is_refused(head: str, purpose: str, tmp_path: Path) -> None:
    name = f"LlamaFor{head}"
    model: Any = getattr(transformers, name)(random_model("llama").config)
    folder = save(tmp_path, model)
    expected = f"{folder}/config.json: architectures: {name} {purpose}; expected a model that continues texts"
    assert refusal(folder) == expected


def test_a_bert_that_fills_gaps_is_refused(tmp_path: Path) -> None:
    """transformers has a BERT that continues texts, and takes the same weights for it."""
    config = transformers.BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    folder = save(tmp_path, transformers.BertForMaskedLM(config))
    assert "architectures: BertForMaskedLM fills gaps in a text; expected a model that" in refusal(folder)


@pytest.mark.parametrize("name", ["Qwen2ForRewardModel", "InternLM2ForRewardModel", "ColQwen2ForRetrieval"])
def test_names_of_classes_that_transformers_does_not_know_say_what_they_do(name: str, folder: Path) -> None:
    edit_json(folder / "config.json", architectures=[name])
    assert f"architectures: {name} " in refusal(folder)


@pytest.mark.parametrize("kind", ["sentence_transformers.models.Pooling", "sentence_transformers.base.modules.Pooling"])
def test_a_model_that_sentence_transformers_makes_embeddings_with_is_refused(kind: str, folder: Path) -> None:
    """Qwen3 Embedding for example, whose config.json is that of a model that writes."""
    parts = [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}, {"idx": 1, "type": kind}]
    (folder / "modules.json").write_text(json.dumps(parts))
    assert refusal(folder) == (
        f"{folder}/modules.json: the model makes embeddings of texts, with sentence-transformers; expected a "
        f"model that continues texts"
    )


@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM", ["LlamaForCausalLM"], ["Other"], [5]])
def test_other_names_do_not_matter(architectures: object, folder: Path) -> None:
    edit_json(folder / "config.json", architectures=architectures)
    (folder / "modules.json").write_text("of another program")
    assert load(folder).model is not None

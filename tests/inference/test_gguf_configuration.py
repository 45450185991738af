"""The metadata of a GGUF file is applied to the model, or the file is refused by the key's name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

from config import Config
from engine import Engine
from inference.weights.checkpoint import load_checkpoint
from inference.weights.gguf.configuration import model_config
from inference.weights.gguf.file import GGUFFile
from inference.weights.gguf.keys import KNOWN
from interface.errors import LoadError
from tests.support import tiny_models
from tests.support.gguf_files import ENDS, write_gguf
from tests.support.tiny_models import CONTEXT, NO_ENDS, WINDOW, bpe_tokenizer, model_of, reference_output

SIZES = {"num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 64}
SHAPE: dict[str, Any] = tiny_models.SHAPE | NO_ENDS | SIZES
LOCAL, EVERYWHERE = ({"rope_type": "default", "rope_theta": theta} for theta in (200.0, 1_000_000.0))
GEMMA3: dict[str, Any] = SHAPE | {"query_pre_attn_scalar": 16, "sliding_window": WINDOW}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
PROMPT = "the cat sat on the mat, the cat sat still"


@pytest.mark.parametrize(
    ("config", "metadata"),
    [
        (
            Gemma3TextConfig(**GEMMA3, rope_parameters={"full_attention": EVERYWHERE, "sliding_attention": LOCAL}),
            {"gemma3__rope__freq_base_swa": 200.0},
        ),
        (Gemma3TextConfig(**GEMMA3, final_logit_softcapping=2.0), {"gemma3__final_logit_softcapping": 2.0}),
        (Gemma2Config(**GEMMA3, final_logit_softcapping=None), {"gemma2__final_logit_softcapping": 0.0}),
        (
            Gemma3TextConfig(**GEMMA3, layer_types=["full_attention"] * 2),
            {"gemma3__attention__sliding_window": None},
        ),
        (GemmaConfig(**SHAPE, tie_word_embeddings=False), {}),
        (
            Qwen3MoeConfig(**SHAPE, **EXPERTS, norm_topk_prob=False),
            {"qwen3moe__expert_weights_norm": False},
        ),
    ],
    ids=["local rotation", "capped logits", "no cap", "no windows", "a head of its own", "experts' weights"],
)
def test_what_few_files_say_is_computed_with(
    config: PreTrainedConfig, metadata: dict[str, Any], tmp_path: Path
) -> None:
    model = model_of(config)
    path = write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer(), **metadata)
    engine = Engine(load_checkpoint(Config(model=str(path), device="cpu")), Config())
    answer = engine.generate(PROMPT, max_tokens=12, temperature=0)
    assert answer["token_ids"] == reference_output(model, bpe_tokenizer()(PROMPT)["input_ids"], 12, ENDS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.sliding_window", 8),
        ("attention.causal", False),
        ("attention.scale", 0.5),
        ("final_logit_softcapping", 30.0),
        ("attention.temperature_length", 8192),
        ("rope.scaling.attn_factor", 1.5),
        ("rope.dimension_sections", [2, 3, 3, 0]),
        ("nextn_predict_layers", 1),
        ("pooling_type", 1),
    ],
)
def test_what_is_not_computed_with_is_refused_by_its_name(key: str, value: Any, tmp_path: Path) -> None:
    assert key in KNOWN
    metadata = {f"llama.{key}".replace(".", "__"): value}
    path = write_gguf(tmp_path / "model.gguf", model_of(LlamaConfig(**SHAPE)), bpe_tokenizer(), **metadata)
    with pytest.raises(LoadError) as refused:
        load_checkpoint(Config(model=str(path), device="cpu"))
    assert str(refused.value).startswith(f"{path}: llama.{key} is ")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("attention.sliding_window", 1, " is 1; expected at least 2, or 0 for none"),
        ("rope.freq_base_swa", 0.0, ": expected a number above 0, got 0.0"),
        ("final_logit_softcapping", -2.0, ": expected a number above 0, got -2.0"),
    ],
)
def test_what_no_gemma_has_is_refused_by_its_name(key: str, value: Any, expected: str, tmp_path: Path) -> None:
    metadata = {f"gemma3.{key}".replace(".", "__"): value}
    path = write_gguf(tmp_path / "model.gguf", model_of(Gemma3TextConfig(**GEMMA3)), bpe_tokenizer(), **metadata)
    with pytest.raises(LoadError) as refused:
        load_checkpoint(Config(model=str(path), device="cpu"))
    assert str(refused.value) == f"{path}: gemma3.{key}{expected}"


def test_a_value_that_changes_nothing_is_no_reason_to_refuse(tmp_path: Path) -> None:
    neutral: dict[str, Any] = {
        "attention__causal": True,
        "expert_count": 0,
        "logit_scale": 1.0,
        "rope__scaling__attn_factor": 1.0,
        "rope__scaling__yarn_ext_factor": 0.5,
    }
    neutral |= {"tensor_data_layout": "Meta AI original pth", "rope__scaling__finetuned": True}
    metadata = {f"llama__{key}": value for key, value in neutral.items()}
    path = write_gguf(tmp_path / "model.gguf", model_of(LlamaConfig(**SHAPE)), bpe_tokenizer(), **metadata)
    assert load_checkpoint(Config(model=str(path), device="cpu")).context == CONTEXT


def test_a_factor_of_longropes_angles_next_to_another_scheme_is_refused(tmp_path: Path) -> None:
    metadata: dict[str, Any] = {"phi3__rope__scaling__attn_factor": 1.5}
    path = write_gguf(tmp_path / "model.gguf", model_of(Phi3Config(**SHAPE)), bpe_tokenizer(), **metadata)
    with pytest.raises(LoadError, match=r"phi3.rope.scaling.attn_factor is 1.5, which is supported with longrope only"):
        load_checkpoint(Config(model=str(path), device="cpu"))


@pytest.mark.parametrize(
    ("entries", "window", "slides"),
    [
        ({"sliding_window": None}, 4096, [True, False, True, False]),
        ({"sliding_window": 8, "sliding_window_pattern": 3}, 8, [True, True, False, True]),
        ({"sliding_window": 8, "sliding_window_pattern": 0}, 8, [True] * 4),
    ],
)
def test_which_layers_of_gemma_2_have_a_window(
    entries: dict[str, int | None], window: int, slides: list[bool], tmp_path: Path
) -> None:
    metadata: dict[str, Any] = {f"gemma2__attention__{key}": value for key, value in entries.items()}
    config = Gemma2Config(**SHAPE | {"num_hidden_layers": 4})
    file = GGUFFile.open(write_gguf(tmp_path / "model.gguf", model_of(config), bpe_tokenizer(), **metadata))
    found = model_config(file)
    assert found.sliding_window == window
    assert [kind == "sliding_attention" for kind in found.layer_types] == slides


def test_factors_of_frequencies_next_to_another_scheme_are_refused(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "model.gguf",
        model_of(LlamaConfig(**SHAPE)),
        bpe_tokenizer(),
        extra={"rope_freqs.weight": torch.linspace(1, 2, 8)},
        llama__rope__scaling__type="linear",
        llama__rope__scaling__factor=2.0,
    )
    with pytest.raises(LoadError, match=r"llama.rope.scaling.type is linear, which is not supported with rope_freqs"):
        load_checkpoint(Config(model=str(path), device="cpu"))

"""GGUF files of models whose layers keep states: their forms, their quantized weights, and what is refused."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from config import Config
from engine import Engine
from interface.errors import LoadError
from tests.support.checkpoint_folders import load
from tests.support.gguf_files import same_weights, write_gguf
from tests.support.gguf_models import model_with_norms
from tests.support.gguf_state_models import DENSE_GRANITE, FAMILIES
from tests.support.gguf_states import DENSE_GRANITE as DENSE
from tests.support.gguf_states import WRITTEN, falcon_h1
from tests.support.tiny_models import bpe_tokenizer, model_of, reference_output, transformers_model

PROMPT = "the cat sat on the mat, the cat sat still"
ROUNDING = 1e-6
"""What adding and taking away, or a power and its logarithm, may change of a weight."""


def config_of(model_type: str, **settings: Any) -> PreTrainedConfig:
    [config] = [copy.deepcopy(config) for config in FAMILIES if config.model_type == model_type]
    for name, value in settings.items():
        setattr(config, name, value)
    return config


def assert_same(path: Path, model: PreTrainedModel) -> None:
    checkpoint = load(path)
    loaded = transformers_model(checkpoint)
    assert same_weights(loaded, model, ROUNDING)
    prompt_ids = bpe_tokenizer()(PROMPT)["input_ids"]
    with torch.no_grad():
        ids = torch.tensor([prompt_ids])
        assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=1e-4)
    answer = Engine(checkpoint, Config()).generate(PROMPT, max_tokens=12, temperature=0, ignore_eos=True)
    assert answer["token_ids"] == reference_output(model, prompt_ids, 12)


@pytest.mark.parametrize("rotation", [None, "rope"])
def test_a_granite_4_without_experts_says_the_same_with_a_rotary_embedding_or_without(
    rotation: str | None, tmp_path: Path
) -> None:
    config = copy.deepcopy(DENSE_GRANITE)
    config.position_embedding_type = rotation
    model = model_with_norms(config)
    assert_same(write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer(), written=DENSE), model)


def test_multipliers_of_a_falcon_h1_are_in_the_weights(tmp_path: Path) -> None:
    config = config_of(
        "falcon_h1",
        embedding_multiplier=3.0,
        lm_head_multiplier=0.5,
        key_multiplier=0.7,
        attention_in_multiplier=1.2,
        attention_out_multiplier=0.9,
        ssm_in_multiplier=1.25,
        ssm_out_multiplier=0.8,
        mlp_multipliers=[0.9, 1.5],
        ssm_multipliers=[0.4, 0.3, 0.8, 0.6, 0.7],
        mamba_rms_norm=False,
    )
    model = model_with_norms(config)
    checkpoint = load(write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer(), written=falcon_h1(config)))
    prompt_ids = bpe_tokenizer()(PROMPT)["input_ids"]
    with torch.no_grad():
        ids = torch.tensor([prompt_ids])
        assert torch.allclose(transformers_model(checkpoint)(ids).logits, model(ids).logits, atol=1e-4)
    answer = Engine(checkpoint, Config()).generate(PROMPT, max_tokens=12, temperature=0, ignore_eos=True)
    assert answer["token_ids"] == reference_output(model, prompt_ids, 12)


@pytest.mark.parametrize(("kind", "tolerance"), [("BF16", 0.005), ("Q8_0", 0.008), ("Q4_0", 0.15)])
@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_weights_in_blocks_are_those_that_were_written(
    config: PreTrainedConfig, kind: str, tolerance: float, tmp_path: Path
) -> None:
    model = model_with_norms(config)
    path = write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer(), kind=kind)
    checkpoint = load(path, dtype="bfloat16")
    loaded = transformers_model(checkpoint)
    assert loaded.dtype == torch.bfloat16
    nn.Module.float(loaded)
    assert same_weights(loaded, model, tolerance)
    answer = Engine(load(path), Config()).generate(PROMPT, max_tokens=4, temperature=0, ignore_eos=True)
    assert len(answer["token_ids"]) == 4


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_queries_keys_and_values_in_one_tensor_are_taken_apart_where_layers_attend(
    config: PreTrainedConfig, tmp_path: Path
) -> None:
    model = model_with_norms(config)
    assert_same(write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer(), is_fused=True), model)


def test_a_layer_that_guesses_tokens_ahead_is_left_out(tmp_path: Path) -> None:
    model = model_with_norms(config_of("qwen3_5_text"))
    behind = {f"blk.4.{name}.weight": torch.ones(32) for name in ("attn_norm", "nextn.enorm", "nextn.hnorm")}
    entries: dict[str, Any] = {"qwen35__block_count": 5, "qwen35__nextn_predict_layers": 1}
    path = write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer(), extra=behind, **entries)
    assert_same(path, model)
    entries["qwen35__attention__recurrent_layers"] = [True, True, True, False, False]
    path = write_gguf(tmp_path / "listed.gguf", model, bpe_tokenizer(), extra=behind, **entries)
    assert_same(path, model)


def test_a_qwen3_next_whose_gates_are_not_taken_apart_says_the_same(tmp_path: Path) -> None:
    """As the first files of this kind have them."""
    usual = WRITTEN["qwen3_next"]

    def old(name: str, weight: Tensor) -> dict[str, Tensor]:
        return {"ssm_in.weight": weight} if name.endswith("in_proj_qkvz.weight") else usual.split(name, weight)

    model = model_with_norms(config_of("qwen3_next"))
    path = write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer(), written=replace(usual, split=old))
    assert_same(path, model)


def test_an_lfm2_whose_last_norm_has_the_usual_name_says_the_same(tmp_path: Path) -> None:
    usual = WRITTEN["lfm2"]
    written = replace(usual, names={**usual.names, "model.embedding_norm": "output_norm"})
    model = model_with_norms(config_of("lfm2"))
    assert_same(write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer(), written=written), model)


def test_what_is_missing_has_the_name_of_the_file(tmp_path: Path) -> None:
    usual = WRITTEN["qwen3_5_text"]

    def without_decays(name: str, weight: Tensor) -> dict[str, Tensor]:
        return {} if name.endswith("A_log") else usual.split(name, weight)

    names = {**usual.names, "linear_attn": ""}
    written = replace(usual, names=names, split=without_decays)
    path = write_gguf(tmp_path / "model.gguf", model_of(config_of("qwen3_5_text")), bpe_tokenizer(), written=written)
    with pytest.raises(LoadError, match=r"blk\.0\.ssm_a\b"):
        load(path)


def _without(name: str, *keys: str) -> list[tuple[dict[str, Any], str]]:
    return [({f"{name}__{key.replace('.', '__')}": None}, f"expected {name}.{key} to be of type int") for key in keys]


OF_STATES = ("ssm.conv_kernel", "ssm.state_size", "ssm.group_count", "ssm.inner_size", "ssm.time_step_rank")
BROKEN: list[tuple[str, dict[str, Any], str]] = [
    *(("lfm2", *case) for case in _without("lfm2", "shortconv.l_cache", "feed_forward_length")),
    *(("qwen3_next", *case) for case in _without("qwen3next", *OF_STATES)),
    *(("qwen3_5_text", *case) for case in _without("qwen35", *OF_STATES)),
    *(("qwen3_5_moe_text", *case) for case in _without("qwen35moe", *OF_STATES, "expert_shared_feed_forward_length")),
    *(("granitemoehybrid", *case) for case in _without("granitehybrid", *OF_STATES)),
    *(
        (model_type, {f"{name}__{key.replace('.', '__')}": 0}, f"expected {name}.{key} to be at least 1, got 0")
        for model_type, name, keys in (
            ("lfm2", "lfm2", ("shortconv.l_cache",)),
            ("qwen3_5_text", "qwen35", (*OF_STATES, "full_attention_interval")),
            ("granitemoehybrid", "granitehybrid", OF_STATES),
        )
        for key in keys
    ),
    ("lfm2", {"lfm2__attention__head_count_kv": [0, 2, 0]}, "lfm2.attention.head_count_kv has 3 entries; expected 4"),
    ("lfm2", {"lfm2__attention__head_count_kv": [0] * 4}, "expected lfm2.attention.head_count_kv to be the same"),
    ("lfm2", {"lfm2__attention__head_count_kv": [0, 2, 1, 0]}, "expected lfm2.attention.head_count_kv to be the"),
    ("lfm2", {"lfm2__attention__head_count_kv": [0, -2, 0, 0]}, "expected lfm2.attention.head_count_kv to be at least"),
    ("lfm2", {"lfm2__attention__head_count_kv": "2"}, "expected lfm2.attention.head_count_kv to be of type int"),
    ("lfm2", {"lfm2__attention__sliding_window": 8}, "lfm2.attention.sliding_window is 8, which is not supported"),
    ("lfm2_moe", {"lfm2moe__expert_gating_func": 1}, "lfm2moe.expert_gating_func is 1; expected 2"),
    ("qwen3_next", {"qwen3next__attention__recurrent_layers": [True]}, "qwen3next.attention.recurrent_layers: expect"),
    (
        "qwen3_next",
        {"qwen3next__attention__recurrent_layers": True},
        "qwen3next.attention.recurrent_layers: expected a",
    ),
    ("qwen3_5_text", {"qwen35__ssm__group_count": 4}, "qwen35.ssm.time_step_rank is 6; expected a multiple of"),
    ("qwen3_5_text", {"qwen35__ssm__inner_size": 71}, "qwen35.ssm.inner_size is 71; expected a multiple of"),
    ("granitemoehybrid", {"granitehybrid__ssm__inner_size": 65}, "granitehybrid.ssm.inner_size is 65; expected a mult"),
    ("granitemoehybrid", {"granitehybrid__ssm__group_count": 3}, "granitehybrid.ssm.inner_size is 64; expected a mult"),
]


@pytest.mark.parametrize(("model_type", "metadata", "reason"), BROKEN)
def test_sizes_of_states_that_cannot_be_are_refused(
    model_type: str, metadata: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "model.gguf", model_of(config_of(model_type)), bpe_tokenizer(), **metadata)
    with pytest.raises(LoadError) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("size", [1, 2**31 - 1])
@pytest.mark.parametrize(
    ("model_type", "key"),
    [
        ("lfm2", "lfm2.shortconv.l_cache"),
        *(("qwen3_5_text", f"qwen35.{key}") for key in OF_STATES),
        *(("qwen3_next", f"qwen3next.{key}") for key in OF_STATES),
        *(("granitemoehybrid", f"granitehybrid.{key}") for key in OF_STATES),
        ("granitemoehybrid", "granitehybrid.expert_shared_feed_forward_length"),
    ],
)
def test_sizes_other_than_those_of_the_weights_are_refused(
    model_type: str, key: str, size: int, tmp_path: Path
) -> None:
    metadata: dict[str, Any] = {key.replace(".", "__"): size}
    path = write_gguf(tmp_path / "model.gguf", model_of(config_of(model_type)), bpe_tokenizer(), **metadata)
    with pytest.raises(LoadError) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 700


@pytest.mark.parametrize(
    ("model_type", "metadata"),
    [
        ("lfm2", {"lfm2__attention__head_count_kv": [2, 0, 0, 0]}),
        ("qwen3_5_text", {"qwen35__full_attention_interval": 2}),
        ("qwen3_next", {"qwen3next__attention__recurrent_layers": [True, False, True, False]}),
        ("granitemoehybrid", {"granitehybrid__attention__head_count_kv": [2, 2, 0, 0]}),
    ],
)
def test_a_list_of_layers_other_than_the_weights_is_refused(
    model_type: str, metadata: dict[str, Any], tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "model.gguf", model_of(config_of(model_type)), bpe_tokenizer(), **metadata)
    with pytest.raises(LoadError) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "blk." in str(refused.value)
    assert "\n" not in str(refused.value)

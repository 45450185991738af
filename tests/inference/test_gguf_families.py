"""GGUF files of every family of architectures are read as the models that were written, or refused."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedConfig

from config import Config
from engine import Engine
from inference.weights.gguf.architectures import ARCHITECTURES
from interface.errors import LoadError
from tests.support.checkpoint_folders import load
from tests.support.gguf_families import OTHER_NAMES, WRITTEN
from tests.support.gguf_files import same_weights, write_gguf
from tests.support.gguf_models import CHANGED, CONFIGS, FALCON, FAMILIES, model_with_norms
from tests.support.gguf_rules import Written
from tests.support.tiny_models import (
    bpe_tokenizer,
    model_of,
    reference_output,
    transformers_model,
)

PROMPT = "the cat sat on the mat, the cat sat still"
ROUNDED = ("nemotron", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "granitemoehybrid", "falcon_h1", "nemotron_h")
"""Those whose norms have 1 added, or whose logarithms are exponentiated, and then taken back."""


def test_every_architecture_is_among_those_that_are_tried() -> None:
    tried = (
        {WRITTEN[config.model_type].architecture for config in (*FAMILIES, FALCON)}
        | CONFIGS.keys()
        | OTHER_NAMES.keys()
    )
    assert tried == ARCHITECTURES.keys()


def test_the_documentation_lists_every_architecture() -> None:
    _, _, table = Path("docs/checkpoints.md").read_text().partition("| family | `general.architecture` |")
    rows = re.findall(r"^\| .* \| ([a-z0-9_, -]+) \|$", table.partition("\n\n")[0], re.MULTILINE)
    assert sorted(", ".join(rows).split(", ")) == sorted(ARCHITECTURES)


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_a_file_says_what_the_model_that_was_written_says(
    config: PreTrainedConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = model_with_norms(config)
    path = write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer())
    checkpoint = load(path)
    assert "not known here" not in caplog.text
    loaded = transformers_model(checkpoint)
    assert loaded.config.model_type == config.model_type
    assert same_weights(loaded, model, tolerance=1e-6 if config.model_type in ROUNDED else 0.0)
    prompt_ids = bpe_tokenizer()(PROMPT)["input_ids"]
    answer = Engine(checkpoint, Config()).generate(PROMPT, max_tokens=12, temperature=0, ignore_eos=True)
    assert answer["token_ids"] == reference_output(model, prompt_ids, 12)
    assert len(set(answer["token_ids"])) > 1


@pytest.mark.parametrize(("beta", "log_multiplier"), [(0.0, 1.0), (0.3, 0.0), (0.3, None), (0.0, 0.0)])
def test_a_ministral_3_without_one_of_its_two_scales_says_the_same(
    beta: float, log_multiplier: float | None, tmp_path: Path
) -> None:
    [ministral] = [config for config in FAMILIES if config.model_type == "ministral3"]
    config = copy.deepcopy(ministral)
    config.rope_parameters |= {"llama_4_scaling_beta": beta, "mscale_all_dim": log_multiplier or 0.0}
    model = model_with_norms(config)
    entries: dict[str, Any] = {"mistral3__rope__scaling__yarn_log_multiplier": log_multiplier}
    checkpoint = load(write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer(), **entries))
    answer = Engine(checkpoint, Config()).generate(PROMPT, max_tokens=12, temperature=0, ignore_eos=True)
    assert answer["token_ids"] == reference_output(model, bpe_tokenizer()(PROMPT)["input_ids"], 12)


def _under(name: str) -> tuple[PreTrainedConfig, Written]:
    """The configuration of a small model whose files have one of `OTHER_NAMES`, and how they are written."""
    model_type, written = OTHER_NAMES[name]
    [config] = [config for config in (*CONFIGS.values(), *FAMILIES) if config.model_type == model_type]
    config = copy.deepcopy(config)
    for setting, value in ({"sliding_window": None} | CHANGED.get(name, {})).items():
        setattr(config, setting, value)
    return config, written


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_a_model_under_another_name_says_the_same(name: str, tmp_path: Path) -> None:
    config, written = _under(name)
    model = model_with_norms(config)
    path = write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer(), written=written)
    checkpoint = load(path)
    loaded = transformers_model(checkpoint)
    assert loaded.config.model_type == config.model_type
    assert same_weights(loaded, model, tolerance=1e-6 if config.model_type in ROUNDED else 0.0)
    prompt_ids = bpe_tokenizer()(PROMPT)["input_ids"]
    answer = Engine(checkpoint, Config()).generate(PROMPT, max_tokens=12, temperature=0, ignore_eos=True)
    assert answer["token_ids"] == reference_output(model, prompt_ids, 12)


def test_a_falcon_of_7b_says_what_transformers_own_says_though_it_is_read_as_a_phi(tmp_path: Path) -> None:
    for is_tied in (False, True):
        config = copy.deepcopy(FALCON)
        config.tie_word_embeddings = is_tied
        model = model_with_norms(config)
        checkpoint = load(write_gguf(tmp_path / f"{is_tied}.gguf", model, bpe_tokenizer()))
        loaded = transformers_model(checkpoint)
        prompt_ids = torch.tensor([bpe_tokenizer()(PROMPT)["input_ids"]])
        with torch.no_grad():
            assert torch.allclose(loaded(prompt_ids).logits, model(prompt_ids).logits, atol=1e-4)
        answer = Engine(checkpoint, Config()).generate(PROMPT, max_tokens=12, temperature=0, ignore_eos=True)
        assert answer["token_ids"] == reference_output(model, prompt_ids[0].tolist(), 12)


def test_a_falcon_of_40b_is_refused(tmp_path: Path) -> None:
    norm = {"blk.0.attn_norm_2.weight": torch.ones(FALCON.hidden_size)}
    path = write_gguf(tmp_path / "model.gguf", model_of(FALCON), bpe_tokenizer(), extra=norm)
    with pytest.raises(
        LoadError, match=r"a Falcon with two norms in a layer \(40B, 180B\) is not supported; let llama"
    ):
        load(path)


def test_a_ling_of_the_first_kind_whose_experts_weights_do_not_sum_up_to_1_is_refused(tmp_path: Path) -> None:
    config, written = _under("bailingmoe")
    entries: dict[str, Any] = {"bailingmoe__expert_weights_norm": False}
    path = write_gguf(tmp_path / "model.gguf", model_of(config), bpe_tokenizer(), written=written, **entries)
    with pytest.raises(LoadError, match="bailingmoe has leading_dense_block_count, expert_weights_scale or"):
        load(path)


def test_a_phi_with_experts_and_longrope_says_the_same_within_the_length_it_was_trained_at(tmp_path: Path) -> None:
    short, long = [1.0 + place / 40 for place in range(4)], [1.0 + place for place in range(4)]
    scale = 1.243163121016122
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": short,
        "long_factor": long,
        "short_mscale": scale,
        "long_mscale": scale,
        "original_max_position_embeddings": 64,
    }
    [config] = [copy.deepcopy(config) for config in FAMILIES if config.model_type == "phimoe"]
    config.rope_parameters = rope
    model = model_with_norms(config)
    factors = {
        "rope_factors_short.weight": torch.tensor(short),
        "rope_factors_long.weight": torch.tensor(long),
    }
    path = write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer(), extra=factors)
    checkpoint = load(path, context=64)
    prompt_ids = bpe_tokenizer()(PROMPT)["input_ids"]
    answer = Engine(checkpoint, Config()).generate(PROMPT, max_tokens=12, temperature=0, ignore_eos=True)
    assert answer["token_ids"] == reference_output(model, prompt_ids, 12)
    with pytest.raises(LoadError, match="longrope"):
        Engine(load(path), Config())


def test_a_granite_4_without_states_is_a_granite_whatever_sizes_of_states_it_has(tmp_path: Path) -> None:
    for model_type, name in (("granite", "granite"), ("granitemoeshared", "granitemoe")):
        [config] = [config for config in FAMILIES if config.model_type == model_type]
        model = model_of(config)
        keys = ("conv_kernel", "state_size", "group_count", "inner_size", "time_step_rank")
        sizes: dict[str, Any] = {f"{name}__ssm__{key}": 4 for key in keys}
        if name == "granite":
            sizes["granite__expert_shared_feed_forward_length"] = 64
        path = write_gguf(tmp_path / f"{name}.gguf", model, bpe_tokenizer(), **sizes)
        assert same_weights(transformers_model(load(path)), model)


def test_what_corrects_a_router_is_not_rounded(tmp_path: Path) -> None:
    [config] = [config for config in FAMILIES if config.model_type == "glm4_moe"]
    model = model_of(config)
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    correction = model.state_dict()[name]
    correction.copy_(torch.linspace(0.001, 0.002, len(correction)))
    path = write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer())
    loaded = transformers_model(load(path, dtype="bfloat16")).state_dict()
    assert torch.equal(loaded[name], correction)
    assert loaded["model.norm.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize("model_type", ["glm4_moe", "qwen3_5_text"])
def test_layers_that_the_metadata_does_not_count_are_refused(model_type: str, tmp_path: Path) -> None:
    """Unless they guess tokens ahead, and are counted as such."""
    [config] = [config for config in FAMILIES if config.model_type == model_type]
    metadata: dict[str, Any] = {f"{WRITTEN[model_type].architecture}__block_count": config.num_hidden_layers - 1}
    path = write_gguf(tmp_path / "model.gguf", model_of(config), bpe_tokenizer(), **metadata)
    with pytest.raises(LoadError, match=r"blk\.3\."):
        load(path)


@pytest.mark.parametrize(
    ("model_type", "metadata", "reason"),
    [
        ("granite", {"granite__rope__scaling__finetuned": False}, "a Granite without a rotary embedding is not"),
        ("deepseek_v3", {"deepseek2__expert_gating_func": 1}, "deepseek2.expert_gating_func is 1; expected 2"),
        (
            "deepseek_v2",
            {"deepseek2__expert_weights_norm": True},
            "deepseek2.expert_weights_norm is true, which is not",
        ),
        ("glm4_moe", {"glm4moe__nextn_predict_layers": 9}, "glm4moe.nextn_predict_layers is 9, of 5 layers in all"),
        (
            "cohere2",
            {"cohere2__attention__sliding_window": None},
            "expected cohere2.attention.sliding_window, got none",
        ),
        (
            "olmo3",
            {"olmo2__attention__sliding_window_pattern": [True]},
            "olmo2.attention.sliding_window_pattern has 1 entries; expected 4, one for each layer",
        ),
        (
            "gemma3n_text",
            {"gemma3n__activation_sparsity_scale": [1.0]},
            "gemma3n.activation_sparsity_scale has 1 entries; expected 6, one for each layer",
        ),
        (
            "gemma3n_text",
            {"gemma3n__attention__sliding_window": None},
            "expected gemma3n.attention.sliding_window",
        ),
        (
            "gemma4_text",
            {"gemma4__attention__value_length": 8},
            "gemma4.attention.value_length is 8; expected 32, as wide as keys",
        ),
        (
            "gemma4_text",
            {"gemma4__rope__dimension_count_swa": 8},
            "gemma4.rope.dimension_count_swa is 8; expected 16, a whole head",
        ),
        (
            "gemma4_text",
            {"gemma4__feed_forward_length": [64, 64, 128, 64]},
            "gemma4.feed_forward_length differs from layer to layer in a way that is not supported",
        ),
        (
            "gemma4_text",
            {"gemma4__attention__head_count_kv": [2, 1]},
            "gemma4.attention.head_count_kv has 2 entries; expected 4, one for each layer",
        ),
        ("apertus", {"xielu__beta": None}, "expected xielu.beta to be of type float, got nothing"),
        ("apertus", {"xielu__beta": [0.5]}, "xielu.beta has 1 entries; expected 4, one for each layer"),
        ("afmoe", {"afmoe__attention__sliding_window": None}, "expected afmoe.attention.sliding_window, got none"),
        ("afmoe", {"afmoe__expert_weights_norm": False}, "afmoe.expert_weights_norm is false; expected true"),
        ("exaone_moe", {"exaone-moe__attention__sliding_window": None}, "expected exaone-moe.attention.sliding_window"),
        ("llama4_text", {"llama4__attention__sliding_window": 0}, "llama4.attention.sliding_window is not supported"),
        (
            "hunyuan_v1_moe",
            {"hunyuan-moe__expert_shared_feed_forward_length": 32},
            "hunyuan-moe.expert_shared_feed_forward_length is 32; expected 64",
        ),
        ("olmo", {"olmo__attention__layer_norm_epsilon": 1e-6}, "olmo.attention.layer_norm_epsilon is "),
        (
            "gpt_bigcode",
            {"starcoder__attention__head_count_kv": 4},
            "starcoder.attention.head_count_kv is 4; expected 1, shared by all heads",
        ),
        (
            "cohere2_moe",
            {"cohere2moe__expert_gating_func": 1, "cohere2moe__expert_weights_norm": False},
            "cohere2moe.expert_gating_func is 1; expected 2, or 1 with expert_weights_norm",
        ),
        (
            "laguna",
            {"laguna__expert_gating_func": 1},
            "laguna.expert_gating_func and expert_weights_norm: expected 2 and true",
        ),
        *(
            ("laguna", {f"laguna__rope__{key}": rotated}, f"laguna.rope.{key} is {rotated}; expected pairs of at most")
            for key in ("dimension_count", "dimension_count_swa")
            for rotated in (7, 2**31 - 2)
        ),
        ("dbrx", {"dbrx__attention__layer_norm_epsilon": 1e-6}, "dbrx.attention.layer_norm_epsilon is "),
        ("hy_v3", {"hy_v3__expert_gating_func": 1}, "hy_v3.expert_gating_func and expert_weights_norm: expected 2 and"),
        (
            "hy_v3",
            {"hy_v3__expert_shared_feed_forward_length": 33},
            "hy_v3.expert_shared_feed_forward_length is 33; expected a multiple of 32",
        ),
        (
            "granite_swa",
            {"granite_swa__attention__rope_pattern": [True]},
            "granite_swa.attention.rope_pattern has 1 entries; expected 4, one for each layer",
        ),
        *(
            (model_type, {f"{name}__block_count": 2**31} | sizes, f"{name}.block_count is 2147483648, more than its")
            for model_type, name, sizes in (
                ("granite_swa", "granite_swa", {}),
                ("hy_v3", "hy_v3", {}),
                ("laguna", "laguna", {"laguna__attention__head_count": 4}),
                ("gemma4_text", "gemma4", {"gemma4__feed_forward_length": 64}),
            )
        ),
        ("phimoe", {"phimoe__expert_used_count": 3}, "phimoe.expert_used_count is 3; expected 2"),
        ("minimax_m2", {"minimax-m2__expert_gating_func": 1}, "minimax-m2.expert_gating_func is 1; expected 2"),
        ("olmo2", {"olmo2__expert_count": 4}, "olmo2.expert_count is 4, which is not supported"),
    ],
)
def test_what_a_family_cannot_have_is_refused(
    model_type: str, metadata: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    config = next(config for config in FAMILIES if config.model_type == model_type)
    path = write_gguf(tmp_path / "model.gguf", model_of(config), bpe_tokenizer(), **metadata)
    with pytest.raises(LoadError) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: {reason}")

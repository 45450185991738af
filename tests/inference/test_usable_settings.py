"""Settings of a config.json that transformers refuses, though what they mean is clear."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration

from config import Config
from engine import Engine
from inference.weights.config_numbers import check_numbers
from inference.weights.text_only import load_text_side
from inference.weights.usable_settings import usable
from interface.errors import LoadError
from study.architectures.checkpoints import small_model
from tests.support.checkpoint_folders import edit_json, load, save
from tests.support.tiny_models import CONTEXT, SHAPE, byte_tokenizer, random_model, reference_output

VISION = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"eos_token_id": "<eos>"}, {"eos_token_id": None}),
        ({"eos_token_id": [1, "<eos>"]}, {"eos_token_id": None}),
        ({"eos_token_id": [1, 2]}, {"eos_token_id": [1, 2]}),
        ({"bos_token_id": [1]}, {"bos_token_id": None}),
        ({"bos_token_id": 1}, {"bos_token_id": 1}),
        ({"pad_token_id": "<pad>"}, {"pad_token_id": None}),
        ({"pad_token_id": [0]}, {"pad_token_id": None}),
        ({"vocab_size": 8, "pad_token_id": 8}, {"vocab_size": 8, "pad_token_id": None}),
        ({"vocab_size": 8, "pad_token_id": 7}, {"vocab_size": 8, "pad_token_id": 7}),
        ({"torch_dtype": "torch.bfloat16"}, {"torch_dtype": "bfloat16"}),
        ({"torch_dtype": "auto", "dtype": "auto"}, {"torch_dtype": None, "dtype": None}),
        ({"attn_implementation": "of another machine"}, {}),
        ({"use_cache": 0}, {}),
    ],
    ids=str,
)
def test_what_is_clear_is_taken_in_a_config_and_in_its_parts(given: dict[str, Any], meant: dict[str, Any]) -> None:
    assert usable(given) == meant
    assert usable({"text_config": given}) == {"text_config": meant}
    assert usable({"thinker_config": {"text_config": given}}) == {"thinker_config": {"text_config": meant}}


@pytest.fixture(scope="module")
def of_several_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of texts and images, whose config has its tokens in the part for texts."""
    text = SHAPE | {"num_hidden_layers": 1, "num_key_value_heads": 2, "head_dim": 16}
    config = Gemma3Config(text_config=text, vision_config=VISION | {"image_size": 28, "patch_size": 14})
    folder = save(tmp_path_factory.mktemp("parts"), Gemma3ForConditionalGeneration(config))
    (folder / "generation_config.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("tokens", "ends"),
    [
        ({"eos_token_id": "<eos>", "pad_token_id": 5000}, {1}),
        ({"eos_token_id": ["<mark>", 9], "pad_token_id": "<pad>"}, {2, 9}),
        ({"eos_token_id": [7, 8], "pad_token_id": [0], "bos_token_id": "<mark>"}, {7, 8}),
    ],
    ids=str,
)
def test_a_part_may_name_its_tokens_in_any_way(tokens: dict[str, Any], ends: set[int], of_several_parts: Path) -> None:
    config = of_several_parts / "config.json"
    written = json.loads(config.read_text())
    edit_json(config, text_config=written["text_config"] | tokens, eos_token_id=None)
    assert load(of_several_parts).generation.eos_ids == ends
    assert load_text_side(Config(model=str(of_several_parts))).info.context == CONTEXT


def test_a_dtype_may_be_spelt_as_in_python(tmp_path: Path) -> None:
    folder = save(tmp_path, random_model("llama"))
    edit_json(folder / "config.json", dtype="torch.float32")
    expected = reference_output(random_model("llama"), byte_tokenizer()("hello")["input_ids"], 8)
    assert (
        Engine.load(Config(model=str(folder))).generate("hello", max_tokens=8, temperature=0)["token_ids"] == expected
    )


KINDS = {"mixed": ["sliding_attention", "full_attention", "sliding_attention"], "full": ["full_attention"] * 3}


@pytest.mark.parametrize("kinds", [*KINDS.values(), None], ids=[*KINDS, "none"])
def test_mistrals_layers_may_be_of_several_kinds(kinds: list[str] | None, tmp_path: Path) -> None:
    folder = save(tmp_path, random_model("mistral"))
    edit_json(folder / "config.json", layer_types=kinds)
    ids = byte_tokenizer()(text := "longer than the window of the layers that slide")["input_ids"]
    expected = reference_output(AutoModelForCausalLM.from_pretrained(folder), ids, 12)
    engine = Engine.load(Config(model=str(folder), device="cpu"))
    assert engine.generate(text, max_tokens=12, temperature=0)["token_ids"] == expected
    assert (expected == reference_output(random_model("mistral"), ids, 12)) == (kinds is None)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "gemma3", "qwen3"])
def test_layers_of_a_kind_that_the_architecture_lacks_are_refused_by_name(architecture: str, tmp_path: Path) -> None:
    folder = save(tmp_path, random_model(architecture))
    edit_json(folder / "config.json", layer_types=["chunked_attention", "full_attention", "full_attention"])
    with pytest.raises(LoadError, match=r"config\.json: layer_types: expected kinds of .*, got 'chunked_attention'$"):
        load(folder)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("query_pre_attn_scalar", 0),
        ("sliding_window", 0),
        ("sliding_window", 1),
        ("sliding_window", "8"),
        ("sliding_window", 2.5),
        ("is_causal", False),
        ("use_bidirectional_attention", True),
        ("layer_types", 0),
        ("layer_types", "x"),
        ("layer_types", [None]),
    ],
)
def test_a_window_or_kinds_of_layers_that_no_model_has_are_refused_by_name(
    architecture: str, field: str, value: Any, tmp_path: Path
) -> None:
    folder = save(tmp_path, random_model(architecture))
    edit_json(folder / "config.json", **{field: value})
    with pytest.raises(LoadError, match=rf"config\.json: {field}: expected .*, got {re.escape(repr(value))}$"):
        load(folder)


def test_layers_with_a_window_need_its_length(tmp_path: Path) -> None:
    folder = save(tmp_path, random_model("gemma3"))
    edit_json(folder / "config.json", sliding_window=None)
    with pytest.raises(LoadError, match=r"config\.json: sliding_window: expected .*, as some layers .*, got None$"):
        load(folder)


@pytest.mark.parametrize("chosen", [-1, 5])
def test_more_experts_than_there_are_are_refused_by_name(chosen: int, tmp_path: Path) -> None:
    folder = save(tmp_path, random_model("qwen2_moe"))
    edit_json(folder / "config.json", num_experts_per_tok=chosen)
    with pytest.raises(LoadError, match=rf"config\.json: num_experts_per_tok: expected .*, got {chosen}$"):
        load(folder)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("rope_type", None),
        ("rope_theta", None),
        ("attention_factor", "x"),
        ("beta_fast", "x"),
        ("mscale", [1]),
        ("short_factor", ["x"]),
    ],
)
def test_a_rotation_that_there_is_not_is_refused_by_name(setting: str, value: Any, tmp_path: Path) -> None:
    folder = save(tmp_path, random_model("llama"))
    rotation = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "mscale_all_dim": 1.0}
    edit_json(folder / "config.json", rope_parameters=rotation | {setting: value})
    with pytest.raises(LoadError, match=rf"config\.json: {setting}: expected .*, got {re.escape(repr(value))}$"):
        load(folder)


def test_a_rotation_of_some_layers_that_there_is_not_is_refused_by_name(tmp_path: Path) -> None:
    folder = save(tmp_path, random_model("gemma3"))
    rotation = {"rope_type": "default", "rope_theta": None}
    edit_json(folder / "config.json", rope_parameters={"full_attention": rotation, "sliding_attention": rotation})
    with pytest.raises(LoadError, match=r"config\.json: rope_theta: expected a number above 0, got None$"):
        load(folder)


def test_a_linear_rotation_without_its_factor_is_refused_by_name(tmp_path: Path) -> None:
    folder = save(tmp_path, random_model("llama"))
    rotation = {"rope_type": "linear", "rope_theta": 1e4, "factor": None}
    edit_json(folder / "config.json", rope_parameters=rotation)
    with pytest.raises(LoadError, match=r"config\.json: factor: expected a number above 0, got None$"):
        load(folder)


@pytest.mark.parametrize("value", [-1, "x", [None]])
def test_a_rotation_that_is_no_object_is_refused_by_name(value: Any, tmp_path: Path) -> None:
    folder = save(tmp_path, random_model("llama"))
    edit_json(folder / "config.json", rope_parameters=None, rope_scaling=value)
    with pytest.raises(LoadError, match=r"config\.json: rope_scaling: expected an object, or null for none, got "):
        load(folder)


def test_a_setting_without_which_transformers_takes_the_config_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path, random_model("llama"))
    edit_json(folder / "config.json", per_layer_config=[5])
    told = r"config\.json: not a configuration that a llama can have, for its per_layer_config, '\[5\]': a setting"
    with pytest.raises(LoadError, match=told):
        load(folder)


def test_a_setting_of_a_part_is_named_with_the_part(of_several_parts: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(of_several_parts, tmp_path / "model"))
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit_json(folder / "config.json", text_config=text | {"per_layer_config": 5})
    with pytest.raises(LoadError, match=r"can have, for its text_config\.per_layer_config, '5': a setting in"):
        load(folder)


def test_a_setting_without_which_a_model_can_be_made_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path, random_model("llama"))
    rotation = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 3, "long_factor": [1.0] * 3}
    edit_json(folder / "config.json", rope_parameters=rotation | {"original_max_position_embeddings": 8})
    with pytest.raises(
        LoadError, match=r"config\.json: no model can be made of it, for its rope_parameters, \"\{'rope_t"
    ):
        load(folder)


def test_layers_with_a_window_need_windows_to_be_in_use(tmp_path: Path) -> None:
    folder = save(tmp_path, small_model("qwen2"))
    kinds = ["sliding_attention"] * 4
    edit_json(folder / "config.json", layer_types=kinds, sliding_window=24, use_sliding_window=False)
    with pytest.raises(LoadError, match=r"layer_types: expected no sliding_attention, as use_sliding_window is false$"):
        load(folder)


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_of_no_tokens_is_refused_under_gpt_neos_name_for_it_too(window: int, tmp_path: Path) -> None:
    folder = save(tmp_path, small_model("gpt_neo"))
    edit_json(folder / "config.json", window_size=window)
    told = rf"config\.json: window_size: expected a whole number of tokens of at least 1, got {window}$"
    with pytest.raises(LoadError, match=told):
        load(folder)


@pytest.mark.parametrize("setting", ["attn_logit_softcapping", "final_logit_softcapping"])
def test_a_cap_of_nothing_is_refused_by_name(setting: str, tmp_path: Path) -> None:
    folder = save(tmp_path, random_model("gemma2"))
    edit_json(folder / "config.json", **{setting: 0})
    with pytest.raises(LoadError, match=rf"config\.json: {setting}: expected a number above 0, got 0$"):
        load(folder)


def test_top_k_of_minus_one_is_every_token(tmp_path: Path) -> None:
    folder = save(tmp_path, random_model("llama"))
    (folder / "generation_config.json").write_text(json.dumps({"top_k": -1}))
    assert load(folder).generation.sampling_defaults == {"top_k": 0}


def test_the_template_of_an_older_models_processor_is_its_template(tmp_path: Path) -> None:
    folder = save(tmp_path, random_model("llama"))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "of the processor"}))
    assert load(folder).tokenizer.chat_template == "of the processor"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": 5}))
    with pytest.raises(LoadError, match=r"chat_template.json: chat_template: expected a text, or a list .*, got 5$"):
        load(folder)
    (folder / "chat_template.jinja").write_text("its own")
    assert load(folder).tokenizer.chat_template == "its own"


def test_a_template_that_is_no_text_in_utf_8_is_refused_by_its_file(tmp_path: Path) -> None:
    folder = save(tmp_path, random_model("llama"))
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(LoadError, match=r"chat_template.jinja: expected a text, got bytes that are not UTF-8$"):
        load(folder)


def test_numbers_that_no_text_depends_on_are_not_looked_at() -> None:
    settings = {"warmup_steps": 500, "qformer_config": {"num_attention_heads": 0}, "text_config": {"rms_norm_eps": 0.1}}
    check_numbers(Path("config.json"), settings, elements=10)
    with pytest.raises(LoadError, match=r"config.json: rms_norm_eps: expected a number from 0 to 1, got 1.5"):
        check_numbers(Path("config.json"), {"text_config": {"rms_norm_eps": 1.5}}, elements=10)

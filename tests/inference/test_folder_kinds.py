"""Folders of every kind: in shards, in torch's own format, with a head that config.json calls tied."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from config import Config
from engine import Engine
from inference.weights.checkpoint import load_checkpoint
from interface.errors import LoadError
from study.architectures.checkpoints import small_model
from tests.support.checkpoint_folders import edit_json, save
from tests.support.gguf_files import same_weights
from tests.support.tiny_models import byte_tokenizer, random_model, reference_output, transformers_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path, random_model("llama"))


def load(folder: Path) -> PreTrainedModel:
    return transformers_model(load_checkpoint(Config(model=str(folder), device="cpu")))


def test_a_model_in_shards_is_loaded(tmp_path: Path) -> None:
    model = random_model("llama")
    save(tmp_path, model)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert same_weights(load(tmp_path), model)


def test_a_model_in_torchs_own_format_is_loaded(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert same_weights(load(folder), random_model("llama"))


@pytest.mark.parametrize("keep", [0, 1, 50_000])
def test_a_file_in_torchs_own_format_that_is_cut_short_is_refused(keep: int, folder: Path) -> None:
    path = folder / "pytorch_model.bin"
    torch.save(load_file(folder / "model.safetensors"), path)
    os.truncate(path, keep)
    (folder / "model.safetensors").unlink()
    with pytest.raises(LoadError, match=rf"^{path}: expected a file of torch.save, got one that is cut short"):
        load(folder)


@pytest.mark.parametrize("has_head", [True, False])
def test_a_tied_model_is_what_transformers_makes_of_it_with_a_head_in_the_file_or_without(
    has_head: bool, folder: Path
) -> None:
    weights = load_file(folder / "model.safetensors")
    if not has_head:
        del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    edit_json(folder / "config.json", tie_word_embeddings=True)
    prompt_ids = byte_tokenizer()("hello")["input_ids"]
    expected = reference_output(AutoModelForCausalLM.from_pretrained(folder), prompt_ids, 8)
    engine = Engine.load(Config(model=str(folder), device="cpu"))
    assert engine.generate("hello", max_tokens=8, temperature=0)["token_ids"] == expected


def test_a_model_that_cannot_run_here_is_refused_with_its_name(tmp_path: Path) -> None:
    folder = save(tmp_path, random_model("mamba"))
    with pytest.raises(LoadError, match=rf"^{folder}: MambaForCausalLM cannot run on this engine's cache: "):
        Engine.load(Config(model=str(folder), device="cpu"))


@pytest.mark.parametrize(
    "settings", [{"pad_token_id": 5000}, {"_attn_implementation": "flash_attention_2"}, {"return_dict": False}], ids=str
)
def test_what_a_config_says_about_computing_is_this_servers_own_business(
    settings: dict[str, object], folder: Path
) -> None:
    edit_json(folder / "config.json", **settings)
    engine = Engine.load(Config(model=str(folder), device="cpu"))
    prompt_ids = byte_tokenizer()("hello")["input_ids"]
    answer = engine.generate("hello", max_tokens=8, temperature=0)
    assert answer["token_ids"] == reference_output(random_model("llama"), prompt_ids, 8)


@pytest.mark.parametrize("template", [5, {"default": 5}, [{"name": "default", "template": 5}]])
def test_a_chat_template_that_is_no_text_is_refused(template: object, folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", chat_template=template)
    with pytest.raises(LoadError, match=r"tokenizer_config.json: chat_template: expected a text, or a list .*, got 5$"):
        load(folder)


def test_a_chat_template_that_cannot_be_read_is_an_error_at_the_start(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit_json(folder / "tokenizer_config.json", chat_template="a\n{% for %}")
    load(folder)
    assert "the chat template cannot be read, so no messages can be taken: Expected an expression" in caplog.text
    assert "in line 2" in caplog.text


def test_what_a_generation_config_says_and_nothing_here_does_is_logged_at_the_start(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "generation_config.json"
    settings = {"num_beams": 4, "typical_p": 0.9, "guidance_scale": 1.0, "no_repeat_ngram_size": 0, "top_k": 5}
    settings |= {"max_new_tokens": 9, "do_sample": False, "num_return_sequences": 1}
    path.write_text(json.dumps(settings | {"sequence_bias": [[[3], 1.5], [[4, 5], -2.0]]}))
    load(folder)
    told = "num_beams 4, typical_p 0.9, max_new_tokens 9, do_sample False, sequence_bias of several tokens, [4, 5]"
    assert f"{path}: not applied here, as if not set: {told}\n" in caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        {"num_return_sequences": 3},
        {"cache_implementation": "of another version"},
        {"watermarking_config": {"of": "another version"}},
        {"compile_config": {}},
        {"max_new_tokens": "many"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_a_generation_config_says_to_other_programs_is_no_reason_to_refuse(
    settings: dict[str, object], folder: Path
) -> None:
    (folder / "generation_config.json").write_text(json.dumps(settings))
    assert load(folder).config.model_type == "llama"


def test_without_a_generation_config_the_config_says_how_to_generate(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "generation_config.json").unlink()
    edit_json(folder / "config.json", repetition_penalty=1.7, top_k=3, suppress_tokens=[3], num_beams=2, eos_token_id=7)
    checkpoint = load_checkpoint(Config(model=str(folder), device="cpu"))
    assert checkpoint.generation.sampling_defaults == {"repetition_penalty": 1.7, "top_k": 3}
    assert checkpoint.generation.eos_ids == {7}
    assert checkpoint.generation.suppressed == {3}
    assert f"{folder / 'config.json'}: not applied here, as if not set: num_beams 2\n" in caplog.text
    theirs = AutoModelForCausalLM.from_pretrained(folder).generation_config
    assert (theirs.repetition_penalty, theirs.top_k, theirs.suppress_tokens) == (1.7, 3, [3])


def test_tokens_that_a_generation_config_suppresses_are_never_chosen_as_in_generate(folder: Path) -> None:
    prompt_ids = byte_tokenizer()("hello")["input_ids"]
    model: Any = random_model("llama")
    suppressed = sorted(set(reference_output(model, prompt_ids, 8)))
    (folder / "generation_config.json").write_text(json.dumps({"suppress_tokens": [*suppressed, 5000]}))
    expected = model.generate(torch.tensor([prompt_ids]), max_new_tokens=8, suppress_tokens=suppressed, do_sample=False)
    for settings in ({}, {"logit_bias": {suppressed[0]: 100.0}}):
        engine = Engine.load(Config(model=str(folder), device="cpu"))
        answer = engine.generate("hello", max_tokens=8, temperature=0, **settings)
        assert answer["token_ids"] == expected[0, len(prompt_ids) :].tolist()
    engine = Engine.load(Config(model=str(folder), device="cpu", generation_config="off"))
    answer = engine.generate("hello", max_tokens=8, temperature=0)
    assert answer["token_ids"] == reference_output(model, prompt_ids, 8)


@pytest.mark.parametrize("speculate", [None, "ngram"])
def test_bad_words_and_bad_beginnings_are_never_chosen_as_in_generate(folder: Path, speculate: Any) -> None:
    prompt_ids = byte_tokenizer()("hello")["input_ids"]
    model: Any = random_model("llama")
    settings: dict[str, Any] = {}
    for place in range(6):  # forbids what the model has said, in a word of one, two, three tokens and as a beginning
        newest = model.generate(torch.tensor([prompt_ids]), max_new_tokens=8, do_sample=False, **settings)[0].tolist()
        size, end = place % 3 + 1, len(prompt_ids) + place
        settings.setdefault("bad_words_ids", []).append(newest[end + 1 - size : end + 1])
        settings["begin_suppress_tokens"] = [newest[len(prompt_ids)]]
    expected = model.generate(torch.tensor([prompt_ids]), max_new_tokens=8, do_sample=False, **settings)
    (folder / "generation_config.json").write_text(json.dumps(settings))
    engine = Engine.load(Config(model=str(folder), device="cpu", compile=speculate is not None, speculate=speculate))
    answer = engine.generate(
        "hello", max_tokens=8, temperature=0, logit_bias={settings["begin_suppress_tokens"][0]: 10.0}
    )
    assert answer["token_ids"][0] not in settings["begin_suppress_tokens"]
    answer = engine.generate("hello", max_tokens=8, temperature=0)
    assert answer["token_ids"] == expected[0, len(prompt_ids) :].tolist()
    assert answer["token_ids"] != reference_output(model, prompt_ids, 8)


@pytest.mark.parametrize(("speculate", "size"), [(None, 1), (None, 2), (None, 4), ("ngram", 2)])
def test_what_must_not_repeat_does_not_as_in_generate(folder: Path, speculate: Any, size: int) -> None:
    text = "hello"
    prompt_ids = byte_tokenizer()(text)["input_ids"]
    model: Any = random_model("llama")
    settings = {"no_repeat_ngram_size": size}
    expected = model.generate(torch.tensor([prompt_ids]), max_new_tokens=80, do_sample=False, **settings)
    (folder / "generation_config.json").write_text(json.dumps(settings))
    engine = Engine.load(Config(model=str(folder), device="cpu", compile=speculate is not None, speculate=speculate))
    answer = engine.generate(text, max_tokens=80, temperature=0)
    assert answer["token_ids"] == expected[0, len(prompt_ids) :].tolist()
    assert answer["token_ids"] != reference_output(model, prompt_ids, 80)


@pytest.mark.parametrize("size", ["3", -1, 2.5, [3]])
def test_a_size_that_is_no_number_of_tokens_is_refused(size: object, folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"no_repeat_ngram_size": size}))
    with pytest.raises(LoadError, match=r"generation_config.json: no_repeat_ngram_size: expected a number of tokens"):
        load(folder)


def test_a_bad_word_that_ends_the_text_is_none_as_in_generate(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 7, "bad_words_ids": [[7], [3], [-1]]}))
    checkpoint = load_checkpoint(Config(model=str(folder), device="cpu"))
    assert 7 in checkpoint.generation.eos_ids
    assert 7 not in checkpoint.generation.suppressed
    assert 3 in checkpoint.generation.suppressed


@pytest.mark.parametrize("name", ["suppress_tokens", "begin_suppress_tokens"])
@pytest.mark.parametrize("value", ["3", [3, "a"], {"a": 3}, 5])
def test_suppressed_tokens_that_are_no_ids_are_refused(name: str, value: object, folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({name: value}))
    with pytest.raises(LoadError, match=rf"generation_config.json: {name}: expected a list of tokens' ids, got"):
        load(folder)


@pytest.mark.parametrize("value", ["3", [3], [["a"]], 5, [[3], "4"]])
def test_bad_words_that_are_no_lists_of_ids_are_refused(value: object, folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"bad_words_ids": value}))
    with pytest.raises(LoadError, match=r"generation_config.json: bad_words_ids: expected a list of"):
        load(folder)


def test_a_tokenizer_that_changes_what_has_been_shown_is_refused(tmp_path: Path) -> None:
    small_model("ctrl").save_pretrained(tmp_path)
    words = ["<unk>", "hel@@", "lo", "wor@@", "ld"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: token_id for token_id, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CTRLTokenizer"}))
    with pytest.raises(
        LoadError, match=r"its tokenizer, CTRLTokenizer, changes what a token says when another follows"
    ):
        load(tmp_path)

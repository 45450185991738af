"""GGUF files: each architecture and type is read as the model that was written; the rest is refused by name."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
from transformers import (
    AutoConfig,
    AutoTokenizer,
)
from transformers.integrations.gguf.kernels import dequantize_blocks

from config import Config
from engine import Engine
from inference.weights.gguf.file import KINDS, Blocks, GGUFFile
from inference.weights.gguf.numbers import dequantized
from interface.errors import LoadError
from tests.support.checkpoint_folders import load
from tests.support.gguf_files import ENDS, random_blocks, same_weights, write_gguf
from tests.support.gguf_models import CONFIGS, model_with_norms
from tests.support.tiny_models import (
    bpe_tokenizer,
    model_of,
    reference_output,
    transformers_model,
)


def llama_file(folder: Path, **metadata: Any) -> Path:
    return write_gguf(folder / "model.gguf", model_of(CONFIGS["llama"]), bpe_tokenizer(), **metadata)


# --- What is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", CONFIGS)
def test_an_architecture_says_what_the_model_that_was_written_says(architecture: str, tmp_path: Path) -> None:
    model = model_with_norms(CONFIGS[architecture])
    path = write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer())
    engine = Engine(load(path), Config())
    prompt = "the cat sat on the mat, the cat sat still"
    prompt_ids = bpe_tokenizer()(prompt)["input_ids"]
    answer = engine.generate(prompt, max_tokens=12, temperature=0, ignore_eos=True)
    assert answer["token_ids"] == reference_output(model, prompt_ids, 12)
    assert len(set(answer["token_ids"])) > 1


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_weights_are_those_that_were_written(architecture: str, tmp_path: Path) -> None:
    model = model_with_norms(CONFIGS[architecture])
    loaded = transformers_model(load(write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer())))
    if architecture.startswith("gemma"):  # adding 1 and taking it away again rounds
        for (name, one), other in zip(model.named_parameters(), loaded.parameters(), strict=True):
            torch.testing.assert_close(one, other, msg=name)
    else:
        assert same_weights(loaded, model)
    assert loaded.config.tie_word_embeddings == CONFIGS[architecture].tie_word_embeddings


@pytest.mark.parametrize("kind", KINDS)
def test_a_type_means_the_numbers_that_the_package_gguf_and_transformers_take_it_for(kind: str) -> None:
    of = GGMLQuantizationType[kind]
    block, block_bytes = GGML_QUANT_SIZES[of]
    columns = 512
    data = random_blocks(of, 40, columns // block * block_bytes)
    numbers = dequantized(Blocks("weight", of, (40, columns), data), torch.float32)
    with np.errstate(all="ignore"):  # some random blocks are NaN
        np.testing.assert_array_equal(numbers.numpy(), dequantize(data, of).astype(np.float32))
    if kind not in (
        "F32",
        "F16",
        "BF16",
        "Q5_0",
        "Q5_1",
        "TQ1_0",
        "TQ2_0",
        "MXFP4",
    ):  # those are not among transformers' blocks
        theirs = dequantize_blocks(torch.from_numpy(data), int(of), 40, columns, torch.float32)
        torch.testing.assert_close(numbers, theirs, equal_nan=True)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4"])
def test_a_model_of_a_type_says_what_its_dequantized_weights_say(kind: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", model_of(CONFIGS["llama"]), bpe_tokenizer(), kind)
    checkpoint = load(path, dtype="float32")
    prompt_ids = bpe_tokenizer()("the cat")["input_ids"]
    expected = reference_output(transformers_model(checkpoint), prompt_ids, 8, ENDS)
    assert Engine(checkpoint, Config()).generate("the cat", max_tokens=8, temperature=0)["token_ids"] == expected
    assert load(path).model.dtype == (torch.float32 if kind == "F16" else torch.bfloat16)


def test_a_model_in_several_files_is_loaded_by_the_name_of_any(tmp_path: Path) -> None:
    model = model_of(CONFIGS["llama"])
    first = write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer(), tensors_per_file=12)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert first == parts[0]
    assert len(parts) == 3
    for name in (*parts, tmp_path):
        assert same_weights(transformers_model(load(name)), model)


def test_a_folder_with_one_gguf_file_is_that_file(tmp_path: Path) -> None:
    path = llama_file(tmp_path)
    assert same_weights(transformers_model(load(tmp_path)), transformers_model(load(path)))


def test_the_tokenizer_is_what_transformers_makes_of_the_file(tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    special = {"tokenizer__ggml__bos_token_id": 2, "tokenizer__ggml__eos_token_id": 1}
    path = llama_file(tmp_path, **special, tokenizer__ggml__add_bos_token=True, tokenizer__chat_template=template)
    ours, theirs = load(path).tokenizer, AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    for text in ("the cat sat", " naïve café 12.5 😀\n\n", "<mark>the<eos>", ""):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours("the")["input_ids"][0] == 2
    assert (ours.bos_token, ours.eos_token) == (theirs.bos_token, theirs.eos_token) == ("<mark>", "<eos>")
    assert ours.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False) == "hello"


@pytest.mark.parametrize("key", ["eos", "eot", "eom"])
def test_each_token_that_the_file_says_ends_a_text_does(key: str, tmp_path: Path) -> None:
    assert load(llama_file(tmp_path, **{f"tokenizer__ggml__{key}_token_id": 2})).generation.eos_ids == {1, 2}


def test_sampling_defaults_in_the_file_are_the_models(tmp_path: Path) -> None:
    path = llama_file(tmp_path, general__sampling__temp=0.5, general__sampling__top_k=20)
    assert load(path).generation.sampling_defaults == {"temperature": 0.5, "top_k": 20}
    assert load(path, generation_config="off").generation.sampling_defaults == {}


def test_what_a_file_says_of_its_model_under_an_unknown_key_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = llama_file(tmp_path, llama__attention__value_scale=0.5, general__of_theirs="x")
    load(path)
    assert f"{path}: not known here, and without effect: llama.attention.value_scale 0.5\n" in caplog.text
    caplog.clear()
    load(llama_file(tmp_path, llama__rope__scale_linear=1.0))
    assert "not known here" not in caplog.text


def test_what_a_file_says_about_sampling_and_nothing_here_does_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = {"xtc_probability": 0.5, "mirostat": 0, "sequence": "top_k;temperature", "penalty_last_n": 64, "new": 3}
    settings = {f"general__sampling__{key}": value for key, value in own.items()}
    path = llama_file(tmp_path, **settings, tokenizer__ggml__suppress_tokens=[5, 6])
    assert load(path).generation.suppressed == {5, 6}
    told = "xtc_probability 0.5, sequence top_k;temperature"
    assert f"{path}: not applied here, as if not set: {told}\n" in caplog.text
    assert f"{path}: not known here, and without effect: general.sampling.new 3\n" in caplog.text
    caplog.clear()
    load(llama_file(tmp_path, general__sampling__penalty_last_n=64, general__sampling__penalty_repeat=1.1))
    assert f"{path}: not applied here, as if not set: penalty_last_n 64\n" in caplog.text


def test_the_configuration_is_what_transformers_reads(tmp_path: Path) -> None:
    path = llama_file(tmp_path, llama__rope__freq_base=50_000.0)
    theirs = AutoConfig.from_pretrained(tmp_path, gguf_file=path.name)
    ours = transformers_model(load(path)).config
    for name in ("hidden_size", "num_key_value_heads", "head_dim", "rms_norm_eps", "vocab_size", "rope_parameters"):
        assert getattr(ours, name) == getattr(theirs, name), name


@pytest.mark.parametrize(
    ("metadata", "rope"),
    [
        ({"llama__rope__scaling__type": "linear"}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"llama__rope__scaling__type": "yarn", "llama__rope__scaling__original_context_length": 40},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40},
        ),
    ],
    ids=["linear", "yarn"],
)
def test_a_rotary_embedding_is_stretched_as_the_file_says(
    metadata: dict[str, Any], rope: dict[str, Any], tmp_path: Path
) -> None:
    config = transformers_model(load(llama_file(tmp_path, **metadata, llama__rope__scaling__factor=4.0))).config
    assert config.rope_parameters == rope | {"rope_theta": 10_000.0}


@pytest.mark.parametrize(("kind", "rope"), [("none", "default"), (None, "linear")])
def test_a_factor_counts_unless_the_file_says_that_nothing_is_stretched(
    kind: str | None, rope: str, tmp_path: Path
) -> None:
    path = llama_file(tmp_path, llama__rope__scaling__factor=4.0, llama__rope__scaling__type=kind)
    assert transformers_model(load(path)).config.rope_parameters["rope_type"] == rope


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"general__architecture": "from-mars"}, "its architecture is from-mars; expected one of the "),
        ({"general__architecture": "mamba"}, "its architecture is mamba: its layers keep states; serve the folder"),
        ({"general__architecture": "bert"}, "its architecture is bert: it makes embeddings or ranks of texts"),
        ({"general__architecture": "dream"}, "its architecture is dream: it writes texts by diffusion; expected"),
        ({"general__architecture": "clip"}, "expected a model, got one of the type mmproj: it is what a model sees"),
        ({"llama__pooling_type": 3}, "llama.pooling_type is 3: it makes embeddings or ranks of texts and writes none"),
        ({"llama__expert_count": [1, 2]}, "llama.expert_count differs from layer to layer, which is not supported"),
        ({"llama__rope__freq_base": [1, 2]}, "expected llama.rope.freq_base to be of type float, got numbers '[1 2]'"),
        ({"general__sampling__top_k": [1, 2]}, "general.sampling.top_k: input should be a valid integer, got [1, 2]"),
        (
            {"general__sampling__penalty_repeat": [1, 2]},
            "general.sampling.penalty_repeat: input should be a valid number, got",
        ),
        ({"llama__expert_count": 8}, "expected llama.expert_used_count to be of type int, got nothing"),
        (
            {"llama__expert_count": 2, "llama__expert_used_count": 3},
            "llama.expert_used_count is 3; expected at most 2, as many as there are (expert_count)",
        ),
        ({"llama__rope__scaling__type": "ntk"}, "llama.rope.scaling.type is ntk; expected none, linear, yarn"),
        ({"llama__attention__value_length": 4}, "llama.attention.value_length is not 8, the width of keys: "),
        ({"llama__attention__key_length": 16}, "llama.rope.dimension_count is 8, and attention.key_length 16: heads"),
        ({"llama__embedding_length": 16}, "llama.embedding_length is 16; expected 32, the width of token_embd.weight"),
        ({"llama__feed_forward_length": 10**9}, "llama.feed_forward_length: expected a whole number of at least 1"),
        ({"llama__attention__layer_norm_rms_epsilon": 2.0}, "llama.attention.layer_norm_rms_epsilon: expected"),
        ({"llama__rope__freq_base": 0.0}, "llama.rope.freq_base: expected a number above 0, got 0.0"),
        ({"llama__rope__scaling__factor": -1.0}, "llama.rope.scaling.factor: expected a number above 0, got -1.0"),
        ({"llama__pooling_type": [1, 2]}, "expected llama.pooling_type to be of type int, got numbers '[1 2]'"),
        ({"tokenizer__ggml__model": "rwkv"}, "its tokenizer is of the kind 'rwkv'; expected gpt2, llama, gemma4"),
        ({"tokenizer__ggml__merges": ["ab"]}, "tokenizer.ggml.merges has an entry without a space; expected the two"),
        ({"tokenizer__ggml__merges": 5}, "expected tokenizer.ggml.merges to be of type list, got int '5'"),
        ({"general__alignment": 4}, "expected general.alignment to be a power of two, of at least 8, got 4"),
        ({"split__tensors__count": 5}, "its split.tensors.count is 5; expected 30, the tensors in its parts"),
        ({"llama__context_length": None}, "expected llama.context_length to be of type int, got nothing"),
        ({"llama__logit_scale": 0.5}, "llama.logit_scale is 0.5, which is not supported"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused_by_its_name(metadata: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = llama_file(tmp_path, **metadata)
    with pytest.raises(LoadError) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: {reason}")


@pytest.mark.parametrize(
    ("magic", "reason"),
    [
        (b"tjgg", "expected a GGUF file, got one of llama.cpp's format before that; convert the model again"),
        (b"PK\3\4", "expected a GGUF file, which begins with the letters GGUF, got one that begins b'PK"),
    ],
)
def test_a_file_of_another_format_says_what_it_is(magic: bytes, reason: str, tmp_path: Path) -> None:
    path = llama_file(tmp_path)
    path.write_bytes(magic + path.read_bytes()[4:])
    with pytest.raises(LoadError) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}: {reason}")


def test_an_error_is_one_line_whatever_is_in_the_file(tmp_path: Path) -> None:
    path = llama_file(tmp_path, general__architecture="a\nb\x1b[2J")
    with pytest.raises(LoadError) as refused:
        load(path)
    assert str(refused.value).startswith(rf"{path}: its architecture is a\nb\x1b[2J; expected one of")


def test_a_name_that_is_too_long_for_one_is_not_repeated(tmp_path: Path) -> None:
    path = llama_file(tmp_path, **{"general.x" * 100: "y"})
    with pytest.raises(
        LoadError, match=r"expected a name before byte \d+, got 900 characters, 'general.xgeneral"
    ) as it:
        load(path)
    assert len(str(it.value)) < len(str(path)) + 150


def test_a_file_of_a_model_that_ranks_texts_is_refused(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "model.gguf", model_of(CONFIGS["llama"]), bpe_tokenizer(), extra={"cls.weight": torch.ones(1, 32)}
    )
    with pytest.raises(
        LoadError, match=r"it has a tensor cls\.weight: it makes embeddings or ranks of texts and writes none"
    ):
        load(path)


@pytest.mark.parametrize(
    ("name", "dimensions", "kind", "expected"),
    [("attn_q", 2, "NVFP4", "one of F32, F16"), ("attn_norm", 1, "Q8_0", "F32, F16 or BF16 of a vector")],
)
def test_a_type_that_is_not_supported_is_refused_by_its_name(
    name: str, dimensions: int, kind: str, expected: str, tmp_path: Path
) -> None:
    path = llama_file(tmp_path)
    data = bytearray(path.read_bytes())
    tensor = f"blk.0.{name}.weight"
    at = data.index(tensor.encode()) + len(tensor) + 4 + 8 * dimensions
    data[at : at + 4] = int(GGMLQuantizationType[kind]).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(LoadError, match=rf"tensor {tensor} is of type {kind}; expected {expected}"):
        GGUFFile.open(path)


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    first = write_gguf(tmp_path / "model.gguf", model_of(CONFIGS["llama"]), bpe_tokenizer(), tensors_per_file=12)
    missing = tmp_path / "model-00003-of-00003.gguf"
    os.remove(missing)
    with pytest.raises(LoadError, match=f"split into 3 files, and {missing.name} is not there"):
        load(first)


def test_a_part_that_is_not_the_first_is_told_from_it_whatever_its_name(tmp_path: Path) -> None:
    first = write_gguf(tmp_path / "model.gguf", model_of(CONFIGS["llama"]), bpe_tokenizer(), tensors_per_file=12)
    (tmp_path / "model-00002-of-00003.gguf").replace(first)
    first.with_name("model-00002-of-00003.gguf").write_bytes(first.read_bytes())
    with pytest.raises(LoadError, match=rf"{first.name}: its split.no is 1: so many parts come before it; expected"):
        load(first)


def test_a_name_like_that_of_a_part_which_there_cannot_be_is_a_name(tmp_path: Path) -> None:
    path = llama_file(tmp_path).rename(tmp_path / "model-00000-of-00000.gguf")
    assert transformers_model(load(path)).config.model_type == "llama"
    assert same_weights(transformers_model(load(tmp_path)), transformers_model(load(path)))


@pytest.mark.parametrize("name", ["blk.0.attn_rot_embd", "blk.7", "blk.", "weight", "blk.0.a.b.c.weight"])
def test_a_tensor_of_any_name_that_has_no_place_is_refused(name: str, tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "model.gguf", model_of(CONFIGS["llama"]), bpe_tokenizer(), extra={name: torch.ones(4, 4)}
    )
    with pytest.raises(LoadError, match=r"the model has no place for 1 tensors of the files, "):
        load(path)


def test_a_folder_with_several_gguf_models_asks_for_one(tmp_path: Path) -> None:
    for name in ("one.gguf", "two.gguf"):
        write_gguf(tmp_path / name, model_of(CONFIGS["llama"]), bpe_tokenizer())
    with pytest.raises(LoadError, match=r"found one.gguf, two.gguf; name one of them"):
        load(tmp_path)

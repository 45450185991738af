"""ENGINE_MODEL=….gguf ENGINE_COMPILE=1: quantized blocks give the same text as the same weights as floats."""

import gc
import logging
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    LlamaConfig,
    OlmoConfig,
    PreTrainedModel,
)

from config import Config
from engine import Engine
from inference.cache.kv_cache import KVCache
from inference.decoders.native.decoder import NativeDecoder, build_for
from inference.decoders.torch_decoder import TorchDecoder
from inference.tensor_thread import on_tensor_thread
from inference.weights import llama
from inference.weights.checkpoint import Checkpoint
from inference.weights.gguf.file import GGUFFile
from inference.weights.gguf.heads import stays_as_it_is
from inference.weights.llama import Llama
from inference.weights.quantized import QuantizedMatrix
from inference.weights.take_apart import take_apart
from interface.errors import LoadError, UnsupportedModel
from tests.support.checkpoint_folders import load
from tests.support.gguf_files import ENDS, write_gguf
from tests.support.gguf_llamas import CONFIGS, QWEN2, SHAPE, written
from tests.support.native_models import LLAMA3_ROTATION, decoded_in_steps
from tests.support.tiny_models import (
    CONTEXT,
    VOCABULARY,
    bpe_tokenizer,
    model_of,
    reference_output,
    transformers_model,
)

MAPS = Path("/proc/self/maps")
PROMPTS = ["the cat", "naïve café, 你好", "the cat sat on the mat, the cat sat still " * 3]


def neutral(checkpoint: Checkpoint) -> Llama:
    assert isinstance(checkpoint.model, Llama)
    return checkpoint.model


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "Q4_0") for name in CONFIGS),
        *(("llama", kind) for kind in ("Q4_1", "Q5_0", "Q5_1", "Q8_0")),
        ("qwen3", "BF16"),
        ("gpt-oss", "MXFP4"),
    ],
)
def test_in_float32_it_says_what_its_dequantized_weights_say(name: str, kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, name, kind)
    dequantized = transformers_model(load(path, dtype="float32"))
    checkpoint = load(path, dtype="float32", compile=True)
    assert neutral(checkpoint).formats == (set() if kind == "BF16" else {kind})
    engine = Engine(checkpoint, Config(compile=True))
    assert isinstance(engine._runner._decoder, NativeDecoder)
    for prompt in PROMPTS:
        expected = reference_output(dequantized, bpe_tokenizer()(prompt)["input_ids"], 12, ENDS)
        assert engine.generate(prompt, max_tokens=12, temperature=0)["token_ids"] == expected


@pytest.mark.parametrize("name", ["ffn_gate", "ffn_up", "ffn_down", "attn_output"])
def test_a_single_bias_is_added_where_the_file_has_it(name: str, tmp_path: Path) -> None:
    outputs = 96 if name in ("ffn_gate", "ffn_up") else 64
    bias = torch.randn(outputs, generator=torch.Generator().manual_seed(3))
    model = model_of(CONFIGS["llama"])
    path = write_gguf(tmp_path / "a.gguf", model, bpe_tokenizer(), "Q8_0", extra={f"blk.1.{name}.bias": bias})
    expected = reference_output(transformers_model(load(path, dtype="float32")), [5, 6, 7], 12, ENDS)
    engine = Engine(load(path, dtype="float32", compile=True), Config(compile=True))
    assert isinstance(engine._runner._decoder, NativeDecoder)
    prompt = str(bpe_tokenizer().decode([5, 6, 7]))
    assert engine.generate(prompt, max_tokens=12, temperature=0)["token_ids"] == expected
    without = reference_output(model, [5, 6, 7], 12, ENDS)
    assert expected != without


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize(
    ("kind", "quantize", "in_layers", "of_logits"),
    [
        ("Q4_0", "int8", "Q4_0", "Q4_0"),
        ("Q4_0", "int4", "Q4_0", "Q4_0"),
        ("Q8_0", "int8", "Q8_0", "Q8_0"),
        ("Q8_0", "int4", "Q4_1", "Q8_0"),
        ("Q5_0", "int4", "Q4_1", "Q5_0"),
        ("BF16", "int8", "Q8_0", "Q8_0"),
        ("BF16", "int4", "Q4_1", "Q8_0"),
    ],
)
def test_only_blocks_of_more_bits_are_rounded_to_few_with_and_without_compile(
    kind: str, quantize: str, in_layers: str, of_logits: str, is_compiled: bool, tmp_path: Path
) -> None:
    path = written(tmp_path, "llama", kind)
    model = neutral(load(path, quantize=quantize, compile=is_compiled))
    down = model.layers[0].down
    rounded = llama.quantized(model, quantize)
    assert rounded.formats == {in_layers, of_logits, *(() if kind == "BF16" else (kind,))}
    assert isinstance(rounded.head, QuantizedMatrix)
    assert isinstance(rounded.layers[0].down, QuantizedMatrix)
    assert (rounded.layers[0].down.format, rounded.head.format) == (in_layers, of_logits)
    assert (rounded.layers[0].down is down) == (kind == in_layers)
    engine = Engine(load(path, quantize=quantize, compile=is_compiled), Config(quantize=quantize, compile=is_compiled))
    assert engine._runner.decoder_name.startswith("C++")


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
def test_in_bfloat16_its_logits_are_about_as_near_as_the_models_own(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, "qwen3", kind)
    token_ids = torch.randint(VOCABULARY, (60,), generator=torch.Generator().manual_seed(2)).tolist()
    model, cache = neutral(load(path, compile=True)), KVCache(4, CONTEXT)
    decoder = NativeDecoder(build_for(model, model.formats), model, cache)
    found = on_tensor_thread(lambda: decoded_in_steps(decoder, cache, token_ids, [1, 30, 13, *[1] * 16]))
    with torch.inference_mode():
        exact_model = transformers_model(load(path, dtype="float32"))
        exact = exact_model(torch.tensor([token_ids])).logits[0]
        own = nn.Module.to(exact_model, torch.bfloat16)(torch.tensor([token_ids])).logits[0].float()
    assert ((found - exact).norm() / (own - exact).norm()).item() < 2


def test_blocks_stay_in_the_mapped_file(tmp_path: Path) -> None:
    """Only queries and keys of Llama are copied, since llama.cpp has their rows in another order."""
    model = neutral(load(written(tmp_path, "llama", "Q4_0"), compile=True))
    for name, matrix in {"embedding": model.embedding, **model.layers[0].matrices}.items():
        assert isinstance(matrix, QuantizedMatrix)
        assert is_mapped(matrix.blocks) == (name not in ("query", "key")), name


def test_the_file_is_unmapped_once_its_weights_are_packed(tmp_path: Path) -> None:
    """So it may be written over, or cut short, while the model is served."""
    path = written(tmp_path, "llama", "Q4_0")
    engine = Engine(load(path, compile=True), Config(compile=True))
    before = engine.generate("hello", max_tokens=9, temperature=0)["token_ids"]
    gc.collect()
    if MAPS.is_file():  # only Linux lists what is mapped
        assert str(path) not in MAPS.read_text()
    path.write_bytes(bytes(path.stat().st_size))
    assert engine.generate("hello", max_tokens=9, temperature=0)["token_ids"] == before


def is_mapped(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap)


def test_rotary_embeddings_are_those_that_transformers_computes(tmp_path: Path) -> None:
    config = LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROTATION | {"original_max_position_embeddings": 8192})
    model = model_of(config)
    factors: dict[str, Any] = {
        "llama__rope__scaling__type": "yarn",
        "llama__rope__scaling__factor": 4.0,
        "llama__rope__scaling__original_context_length": 64,
        "llama__context_length": 256,
    }
    path = write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer(), "Q4_0", **factors)
    expected = take_apart(transformers_model(load(path)), 200)
    found = neutral(load(path, compile=True, context=200))
    for ours, theirs in zip(found.layers, expected.layers, strict=True):
        torch.testing.assert_close(ours.rotation.cosines, theirs.rotation.cosines)
        torch.testing.assert_close(ours.rotation.sines, theirs.rotation.sines)
    assert found.sizes == expected.sizes


def test_without_a_compiler_it_is_dequantized_and_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, "qwen3", "Q4_1")
    expected = reference_output(transformers_model(load(path, dtype="float32")), [5, 6, 7], 8, ENDS)
    monkeypatch.setenv("CXX", "no-such-compiler")
    engine = Engine(load(path, dtype="float32", compile=True), Config(compile=True))
    assert isinstance(engine._runner._decoder, TorchDecoder)
    assert "found no C++ compiler" in caplog.text
    prompt = str(bpe_tokenizer().decode([5, 6, 7]))
    assert engine.generate(prompt, max_tokens=8, temperature=0)["token_ids"] == expected


def test_what_is_no_llama_is_loaded_as_transformers_has_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = OlmoConfig(**QWEN2)
    path = write_gguf(tmp_path / "model.gguf", model_of(config), bpe_tokenizer(), "Q4_0")
    with caplog.at_level(logging.INFO, "engine"):
        checkpoint = load(path, compile=True)
    assert isinstance(checkpoint.model, PreTrainedModel)
    assert "olmo is not an architecture of the Llama type" in caplog.text


def test_all_weights_are_dequantized_where_some_are_of_a_type_that_is_not_computed_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wide = LlamaConfig(**SHAPE | {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 16})
    path = write_gguf(tmp_path / "model.gguf", model_of(wide), bpe_tokenizer(), "TQ2_0")
    with caplog.at_level(logging.INFO, "engine"):
        checkpoint = load(path, compile=True)
    assert isinstance(checkpoint.model, PreTrainedModel)
    assert "The weights are dequantized: model.embed_tokens is in the format TQ2_0; expected one of Q4_0" in caplog.text
    assert not stays_as_it_is(GGUFFile.open(path))
    assert stays_as_it_is(GGUFFile.open(written(tmp_path, "llama", "Q4_0")))


def test_logits_that_are_not_numbers_are_refused_though_all_weights_are(tmp_path: Path) -> None:
    model = model_of(CONFIGS["llama"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mlp" in name:
                parameter.mul_(1e30)
    path = write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer(), "BF16")
    with pytest.raises(
        UnsupportedModel, match=r"gives logits that are not finite, in bfloat16. Either its weights are"
    ):
        Engine(load(path, compile=True), Config(compile=True))


def test_scales_that_are_not_numbers_are_refused_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, "llama", "Q4_0")
    model = neutral(load(path, compile=True))
    down = model.layers[1].down
    assert isinstance(down, QuantizedMatrix)
    content = path.read_bytes()
    at = content.index(down.blocks[3].tobytes())
    path.write_bytes(content[:at] + b"\xff\x7f" + content[at + 2 :])
    with pytest.raises(LoadError, match=r"model\.gguf: tensor blk\.1\.ffn_down\.weight has a weight that is NaN"):
        load(path, compile=True)


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_step_reads_an_embedding_that_is_the_head_too_and_it_is_kept_twice(is_tied: bool, tmp_path: Path) -> None:
    file = GGUFFile.open(written(tmp_path, "llama, tied" if is_tied else "llama", "Q4_0"))
    embedding = VOCABULARY * 64 // 32 * 18
    assert file.bytes - file.bytes_per_step == (0 if is_tied else embedding)
    assert file.bytes_held - file.bytes == (embedding if is_tied else 0)


@pytest.mark.parametrize("metadata", [{"freq_base": 1.0}, {"scaling__yarn_beta_fast": -1.0}])
def test_angles_that_cannot_be_computed_are_refused(metadata: dict[str, float], tmp_path: Path) -> None:
    yarn = {"scaling__type": "yarn", "scaling__factor": 4.0, "scaling__original_context_length": 32}
    rope: dict[str, Any] = {f"llama__rope__{key}": value for key, value in (yarn | metadata).items()}
    path = write_gguf(tmp_path / "model.gguf", model_of(CONFIGS["llama"]), bpe_tokenizer(), "Q4_0", **rope)
    with pytest.raises(LoadError, match=r"model\.gguf: no model can be made of it"):
        load(path, compile=True)

"""Code compiled for the blocks of a GGUF file is checked on a corner of them before it is used."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen3Config, Qwen3MoeConfig

from config import Config
from engine import Engine
from inference.decoders.decoder import Decoder
from inference.decoders.native.decoder import NativeDecoder, build_for
from inference.decoders.start_check import corner
from inference.decoders.start_check.in_pieces import in_pieces
from inference.decoders.start_check.tolerance import Tolerance
from inference.weights import rotary
from inference.weights.checkpoint import Checkpoint, load_checkpoint
from inference.weights.formats import FORMATS
from inference.weights.llama import Layer, Llama
from inference.weights.quantized import as_tensor
from interface.errors import UnsupportedModel
from tests.support import tiny_models
from tests.support.compilers import needs_compiler
from tests.support.gguf_files import write_gguf
from tests.support.quantized_matrices import random_matrix
from tests.support.tiny_models import NO_ENDS, bpe_tokenizer, model_of

SHAPE: dict[str, Any] = {
    **tiny_models.SHAPE,
    **NO_ENDS,
    "hidden_size": 64,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "qwen3 moe": Qwen3MoeConfig(**SHAPE | EXPERTS),
}
Fault = Callable[[Llama], Llama]


def loaded(folder: Path, name: str, kind: str, **settings: Any) -> Checkpoint:
    model = model_of(CONFIGS[name])
    generator = torch.Generator().manual_seed(1)
    for part, parameter in model.named_parameters():
        if "bias" in part or "norm" in part:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    path = write_gguf(folder / "model.gguf", model, bpe_tokenizer(), kind)
    return load_checkpoint(Config(model=str(path), device="cpu", compile=True, **settings))


def unrotated(llama: Llama) -> Llama:
    layers = [dataclasses.replace(layer, rotation=rotary.unrotated(layer.rotation)) for layer in llama.layers]
    return dataclasses.replace(llama, layers=layers)


def scaled(llama: Llama) -> Llama:
    return dataclasses.replace(llama, sizes=dataclasses.replace(llama.sizes, scale=2 * llama.sizes.scale))


def without_norms(llama: Llama) -> Llama:
    layers = [dataclasses.replace(layer, mlp_norm=torch.ones_like(layer.mlp_norm)) for layer in llama.layers]
    return dataclasses.replace(llama, layers=layers)


def exchanged(llama: Llama) -> Llama:
    layers = [dataclasses.replace(layer, router=as_router(layer).flip(0)) for layer in llama.layers]
    return dataclasses.replace(llama, layers=layers)


def as_router(layer: Layer) -> Tensor:
    assert layer.router is not None
    return layer.router


@needs_compiler
@pytest.mark.parametrize("kind", ["Q4_0", "BF16"])
def test_a_decoder_that_mistakes_its_experts_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = loaded(tmp_path, "qwen3 moe", kind)
    monkeypatch.setattr(
        corner, "NativeDecoder", lambda library, small, cache: NativeDecoder(library, exchanged(small), cache)
    )
    with pytest.raises(UnsupportedModel, match="Compiled here, the decoder gives other logits"):
        Engine(checkpoint, Config(compile=True))


@needs_compiler
@pytest.mark.parametrize("kind", ["Q4_0", "BF16"])
@pytest.mark.parametrize("fault", [unrotated, scaled, without_norms])
def test_a_decoder_with_a_fault_is_refused(
    fault: Fault, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = loaded(tmp_path, "llama", kind)
    monkeypatch.setattr(
        corner, "NativeDecoder", lambda library, small, cache: NativeDecoder(library, fault(small), cache)
    )
    with pytest.raises(UnsupportedModel, match=r"Compiled here, the decoder gives other logits .*CXX names one"):
        Engine(checkpoint, Config(compile=True))


@needs_compiler
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_sound_one_is_far_from_being_refused(name: str, kind: str, dtype: str, tmp_path: Path) -> None:
    model = loaded(tmp_path, name, kind, dtype=dtype).model
    assert isinstance(model, Llama)
    with torch.inference_mode():
        difference = corner.difference(build_for(model, model.formats), corner.corner(model))
    assert 0 < difference < Tolerance.of(model.dtype).limit / 2


@needs_compiler
def test_a_neighbour_s_logits_that_are_not_finite_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = in_pieces

    def with_a_broken_neighbour(decoder: Decoder, *further: Any) -> list[Tensor]:
        text, neighbour = compute(decoder, *further)
        return [text, torch.full_like(neighbour, torch.nan) if isinstance(decoder, NativeDecoder) else neighbour]

    monkeypatch.setattr(corner, "in_pieces", with_a_broken_neighbour)
    with pytest.raises(UnsupportedModel, match=r"gives other logits than operators of torch \(some are not finite\)"):
        Engine(loaded(tmp_path, "llama", "Q4_0"), Config(compile=True))


@pytest.mark.parametrize("format", FORMATS)
def test_a_corner_of_a_matrix_is_the_corner_of_its_numbers(format: str) -> None:
    matrix = random_matrix(format, outputs=40, blocks=1024 // FORMATS[format].inputs)
    cut = corner._cut(matrix, 33, corner.INPUTS)
    assert torch.equal(as_tensor(cut, torch.float32), matrix.dequantized()[:33, : corner.INPUTS])
    assert corner._cut(matrix, 64, 2048).shape == matrix.shape, "no more than it has"

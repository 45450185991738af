"""Tensors that a GGUF file may have or not: compiled and uncompiled, it is served alike or refused alike."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from config import Config
from engine import Engine
from inference.weights.gguf.source import GGUFSource
from interface.errors import LoadError
from tests.support import tiny_models
from tests.support.checkpoint_folders import load
from tests.support.gguf_files import ENDS, NAMES, PAIRED, paired, same_weights, write_gguf
from tests.support.tiny_models import NO_ENDS, bpe_tokenizer, model_of, reference_output

SHAPE: dict[str, Any] = {
    **tiny_models.SHAPE,
    **NO_ENDS,
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
EVERYWHERE: dict[str, Any] = {"attention_bias": True, "mlp_bias": True}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
JOINED: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3moe": Qwen3MoeConfig(**SHAPE, **EXPERTS),
}
PROMPT = "the cat sat on the mat"


def with_biases(config: PreTrainedConfig, kept: Sequence[str]) -> PreTrainedModel:
    """A model that has biases wherever it may; all but those of some matrices, or of some layers, are zero."""
    model = model_of(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
                if not any(part in name for part in kept):
                    parameter.zero_()
    return model


def biases_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """Those that are not zero, as llama.cpp has them."""
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    found: dict[str, Tensor] = {}
    for name, bias in model.state_dict().items():
        if name.endswith(".bias") and bias.any():
            own = NAMES[name.split(".", 3)[3].removesuffix(".bias")]
            is_paired = model.config.model_type in PAIRED and own in heads
            found[f"blk.{name.split('.')[2]}.{own}.bias"] = paired(bias, heads[own]) if is_paired else bias
    return found


def without_biases(model: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """The same model in a class, or with a config, that has none."""
    plain = model_of(config)
    plain.load_state_dict({name: weight for name, weight in model.state_dict().items() if not name.endswith(".bias")})
    return plain


@pytest.mark.parametrize("is_compiled", [True, False], ids=["compiled", "uncompiled"])
@pytest.mark.parametrize(
    ("biased", "plain", "kept"),
    [
        (LlamaConfig(**SHAPE, **EVERYWHERE), LlamaConfig(**SHAPE), QKV),
        (LlamaConfig(**SHAPE, **EVERYWHERE), LlamaConfig(**SHAPE), ("layers.1.self_attn.v_proj",)),
        (LlamaConfig(**SHAPE, **EVERYWHERE), LlamaConfig(**SHAPE), ("self_attn.o_proj", "mlp.down_proj")),
        (Qwen3Config(**SHAPE, attention_bias=True, head_dim=16), Qwen3Config(**SHAPE, head_dim=16), QKV),
    ],
    ids=["queries, keys and values", "values of one layer", "outputs", "Qwen3"],
)
def test_biases_that_the_file_has_are_added_and_no_others(
    biased: PreTrainedConfig, plain: PreTrainedConfig, kept: Sequence[str], is_compiled: bool, tmp_path: Path
) -> None:
    model = with_biases(biased, kept)
    path = write_gguf(tmp_path / "model.gguf", without_biases(model, plain), bpe_tokenizer(), extra=biases_of(model))
    engine = Engine(load(path, compile=is_compiled), Config(compile=is_compiled))
    expected = reference_output(model, bpe_tokenizer()(PROMPT)["input_ids"], 12, ENDS)
    assert engine.generate(PROMPT, max_tokens=12, temperature=0)["token_ids"] == expected


@pytest.mark.parametrize("is_compiled", [True, False], ids=["compiled", "uncompiled"])
def test_a_qwen2_without_biases_is_served_as_what_it_is(is_compiled: bool, tmp_path: Path) -> None:
    model = model_of(Qwen2Config(**SHAPE))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_parameter("bias", None)
    path = write_gguf(tmp_path / "model.gguf", model, bpe_tokenizer())
    engine = Engine(load(path, compile=is_compiled), Config(compile=is_compiled))
    expected = reference_output(model, bpe_tokenizer()(PROMPT)["input_ids"], 12, ENDS)
    assert engine.generate(PROMPT, max_tokens=12, temperature=0)["token_ids"] == expected


@pytest.mark.parametrize("kind", ["F32", "Q4_0"])
@pytest.mark.parametrize("name", JOINED)
def test_what_a_converter_has_joined_is_what_it_was_made_of(name: str, kind: str, tmp_path: Path) -> None:
    model = with_biases(JOINED[name], QKV)
    one = GGUFSource(write_gguf(tmp_path / "one.gguf", model, bpe_tokenizer(), kind), "one")
    joined = GGUFSource(write_gguf(tmp_path / "joined.gguf", model, bpe_tokenizer(), kind, is_fused=True), "joined")
    assert joined.settings == one.settings
    dtype = torch.float32
    assert same_weights(joined.load(joined.config(), dtype).model, one.load(one.config(), dtype).model)
    assert joined.plain_config() == one.plain_config()


@pytest.mark.parametrize("is_compiled", [True, False], ids=["compiled", "uncompiled"])
@pytest.mark.parametrize(
    ("config", "extra", "reason"),
    [
        (MistralConfig(**SHAPE), "blk.0.attn_q.bias", "blk.0.attn_q.bias"),
        (LlamaConfig(**SHAPE), "output.bias", "output.bias"),
        (LlamaConfig(**SHAPE), "blk.1.attn_q_norm.weight", "blk.1.attn_q_norm.weight"),
        (LlamaConfig(**SHAPE), "v.patch_embd.weight", "v.patch_embd.weight"),
    ],
    ids=["Mistral", "the head", "a norm", "what sees images"],
)
def test_what_the_architecture_has_no_place_for_is_refused_by_the_files_own_name(
    config: PreTrainedConfig, extra: str, reason: str, is_compiled: bool, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "model.gguf", model_of(config), bpe_tokenizer(), extra={extra: torch.ones(64)})
    with pytest.raises(
        LoadError, match=rf"model\.gguf: the model has no place for 1 tensors .*, {reason} for one. Is"
    ) as refused:
        load(path, compile=is_compiled)
    assert "config.json" not in str(refused.value)


def test_the_gate_of_a_shared_expert_may_be_a_matrix_of_one_row(tmp_path: Path) -> None:
    """As newer versions of llama.cpp's converter write it."""
    model = model_of(Qwen2MoeConfig(**SHAPE, **EXPERTS, shared_expert_intermediate_size=32))
    gates = [weight for name, weight in model.state_dict().items() if name.endswith("mlp.shared_expert_gate.weight")]
    matrices = {f"blk.{number}.ffn_gate_inp_shexp.weight": gate for number, gate in enumerate(gates)}
    for extra in ({}, matrices):
        source = GGUFSource(write_gguf(tmp_path / "x.gguf", model, bpe_tokenizer(), extra=extra), "x")
        assert same_weights(source.load(source.config(), torch.float32).model, model)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (
            "adapter",
            "expected a model, got one of the type adapter: merge it into its model with llama.cpp's llama-export",
        ),
        (
            "mmproj",
            "expected a model, got one of the type mmproj: it is what a model sees and hears with; serve the model",
        ),
        (
            "controlvector",
            "expected a model, got one of the type controlvector: it changes what a model says, which is",
        ),
        ("imatrix", "expected a model, got one of the type imatrix: it says which weights matter when a model is"),
    ],
)
def test_a_file_that_is_no_model_says_what_it_is(kind: str, reason: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", model_of(LlamaConfig(**SHAPE)), bpe_tokenizer(), general__type=kind)
    with pytest.raises(LoadError, match=rf"x\.gguf: {reason}"):
        load(path)


def test_a_part_under_another_name_is_told_what_name_it_needs(tmp_path: Path) -> None:
    written = write_gguf(tmp_path / "m.gguf", model_of(LlamaConfig(**SHAPE)), bpe_tokenizer(), tensors_per_file=12)
    renamed = written.rename(tmp_path / "first.gguf")
    with pytest.raises(LoadError, match=r"it is one of 2 parts; expected a name that ends in -00001-of-00002\.gguf"):
        load(renamed)


def test_a_file_of_the_other_endianness_says_how_to_convert_it(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", model_of(LlamaConfig(**SHAPE)), bpe_tokenizer())
    content = path.read_bytes()
    path.write_bytes(content[:4] + content[7:3:-1] + content[8:])
    with pytest.raises(LoadError, match=r"got 3, big-endian; convert it with `gguf-convert-endian m\.gguf little`"):
        load(path)

"""Rotary schemes and vocabularies in GGUF files, written differently from config.json and tokenizer.json."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter
from transformers import AutoTokenizer, LlamaConfig, Phi3Config, PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from config import Config
from engine import Engine
from inference.weights.checkpoint import load_checkpoint
from inference.weights.gguf.file import GGUFFile
from inference.weights.gguf.tokenizer import make_tokenizer
from interface.errors import LoadError
from tests.support import tiny_models
from tests.support.gguf_files import ENDS, write_gguf
from tests.support.tiny_models import CONTEXT, NO_ENDS, bpe_tokenizer, model_of, reference_output, transformers_model

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_key_value_heads": 2, "intermediate_size": 64}
SHAPE: dict[str, Any] = tiny_models.SHAPE | NO_ENDS | SIZES | {"tie_word_embeddings": False}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
PROMPT = "the cat sat on the mat, the cat sat still"


def says_the_same(model: PreTrainedModel, path: Path, context: int | None = None) -> bool:
    """Whether an engine with the file gives the same text as the model that was written, compiled and not."""
    expected = reference_output(model, bpe_tokenizer()(PROMPT)["input_ids"], 12, ENDS)
    configs = [Config(model=str(path), device="cpu", context=context, compile=compile) for compile in (False, True)]
    answers = [Engine.load(config).generate(PROMPT, max_tokens=12, temperature=0) for config in configs]
    return all(answer["token_ids"] == expected for answer in answers)


def factors_of(config: PreTrainedConfig) -> torch.Tensor:
    """The divisor of each frequency, as llama.cpp's converter writes it for Llama 3."""
    width = config.hidden_size // config.num_attention_heads
    theta: float = config.rope_parameters["rope_theta"]
    plain = torch.tensor(theta) ** -(torch.arange(0, width, 2) / width)
    scaled: torch.Tensor = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0]
    return torch.div(plain, scaled)


def test_the_frequencies_of_llama_3_are_recognized_by_their_factors(tmp_path: Path) -> None:
    config = LlamaConfig(**SHAPE, rope_parameters=LLAMA3)
    model = model_of(config)
    factors = {"rope_freqs.weight": factors_of(config)}
    path = write_gguf(tmp_path / "a.gguf", model, bpe_tokenizer(), extra=factors, llama__rope__freq_base=500_000.0)
    loaded = transformers_model(load_checkpoint(Config(model=str(path), device="cpu"))).config
    assert loaded.rope_parameters == LLAMA3
    assert says_the_same(model, path)


def test_other_factors_are_taken_as_they_are(tmp_path: Path) -> None:
    factors = torch.tensor([1.0, 3.0, 2.0, 5.0, 1.0, 7.0, 2.0, 9.0])
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "long_factor": factors.tolist(),
        "short_factor": factors.tolist(),
        "factor": 1.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": CONTEXT,
    }
    model = model_of(LlamaConfig(**SHAPE, rope_parameters=rope))
    path = write_gguf(tmp_path / "a.gguf", model, bpe_tokenizer(), extra={"rope_freqs.weight": factors})
    assert says_the_same(model, path)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"rope_freqs.weight": [1.0, 0.0, 1.0]}, "tensor rope_freqs.weight has factors that no frequency can have"),
        ({"rope_freqs.weight": [1.0, math.nan]}, "tensor rope_freqs.weight has factors that no frequency can have"),
        (
            {"rope_freqs.weight": [1.0] * 4},
            "tensor rope_freqs.weight has 4 factors; expected 8, one for each",
        ),
        ({"rope_factors_short.weight": [1.0, 2.0]}, "expected a tensor rope_factors_long.weight, as its rotary"),
    ],
    ids=["zero", "not a number", "too few", "one list of two"],
)
def test_factors_that_no_rotation_has_are_refused(extra: dict[str, list[float]], reason: str, tmp_path: Path) -> None:
    tensors = {name: torch.tensor(factors) for name, factors in extra.items()}
    path = write_gguf(tmp_path / "a.gguf", model_of(LlamaConfig(**SHAPE)), bpe_tokenizer(), extra=tensors)
    with pytest.raises(LoadError) as refused:
        load_checkpoint(Config(model=str(path), device="cpu"))
    assert str(refused.value).startswith(f"{path}: {reason}")


@pytest.mark.parametrize("factor", [1.25, None])
def test_phi_3s_two_lists_of_factors_and_its_partial_rotation(factor: float | None, tmp_path: Path) -> None:
    short, long = torch.linspace(1, 2, 6), torch.linspace(1, 8, 6)
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "partial_rotary_factor": 0.75,
        "long_factor": long.tolist(),
        "short_factor": short.tolist(),
        "original_max_position_embeddings": CONTEXT // 2,
        "attention_factor": factor or 1.0,
    }
    config = Phi3Config(**SHAPE, rope_parameters=rope, original_max_position_embeddings=CONTEXT // 2)
    model = model_of(config)
    path = write_gguf(
        tmp_path / "a.gguf",
        model,
        bpe_tokenizer(),
        extra={"rope_factors_long.weight": long, "rope_factors_short.weight": short},
        phi3__rope__dimension_count=12,
        phi3__rope__scaling__original_context_length=CONTEXT // 2,
        phi3__rope__scaling__attn_factor=factor,
    )
    loaded = transformers_model(load_checkpoint(Config(model=str(path), device="cpu"))).config
    assert loaded.rope_parameters["partial_rotary_factor"] == 0.75
    assert says_the_same(model, path, context=CONTEXT // 2)


@pytest.mark.parametrize("kind", ["yarn", "linear"])
def test_a_stretched_model_says_the_same_beyond_the_length_that_it_was_trained_at(kind: str, tmp_path: Path) -> None:
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10_000.0, "factor": 4.0}
    metadata: dict[str, Any] = {"llama__rope__scaling__type": kind, "llama__rope__scaling__factor": 4.0}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = metadata["llama__rope__scaling__original_context_length"] = 30
    model = model_of(LlamaConfig(**(SHAPE | {"max_position_embeddings": 30}), rope_parameters=rope))
    path = write_gguf(tmp_path / "a.gguf", model, bpe_tokenizer(), **metadata)
    prompt = PROMPT * 7
    prompt_ids = bpe_tokenizer()(prompt)["input_ids"]
    assert 60 < len(prompt_ids) < 100
    engine = Engine.load(Config(model=str(path), device="cpu", context=120))
    assert engine.generate(prompt, max_tokens=12, temperature=0)["token_ids"] == reference_output(
        model, prompt_ids, 12, ENDS
    )
    with pytest.raises(LoadError, match=r"^ENGINE_CONTEXT: expected at most 120 tokens, .*, got 121$"):
        load_checkpoint(Config(model=str(path), device="cpu", context=121))


# --- Vocabularies of SentencePiece ------------------------------------------------------------------------------------


def sentencepiece_file(path: Path, architecture: str) -> Path:
    """A file with nothing but a vocabulary of SentencePiece's kind, with bytes and scores, and an embedding."""
    words = ["▁", "▁the", "▁cat", "th", "he", "▁t", "▁c", "at", "the", "cat", "e", "h", "t", "c", "a", "▁ca"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    writer = GGUFWriter(path, architecture)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(place) for place in range(len(tokens))])
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * len(words)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_uint32(f"{architecture}.block_count", 1)
    writer.add_tensor("token_embd.weight", torch.zeros(len(tokens), 4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("architecture", ["gemma2", "phi3"])
def test_a_vocabulary_of_sentencepiece_is_what_transformers_makes_of_it(architecture: str, tmp_path: Path) -> None:
    path = sentencepiece_file(tmp_path / "a.gguf", architecture)
    ours = make_tokenizer(GGUFFile.open(path))
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    for text in ("the cat", " the  cat", "naïve 😀\n", "</s>the", ""):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text
        ids = ours(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours("the")["input_ids"][0] == 1

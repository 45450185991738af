"""Ways to damage a checkpoint, and a program that loads each damaged one and reports the result.

    python -m tests.support.mutations FOLDER

All of them run in one process, since starting one takes longer than a hundred mutations. It prints a line of JSON for
each: the outcome ("served" or "refused"), the message, the seconds that it took, and the memory that it added.
"""

import json
import os
import resource
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from config import Config
from engine import Engine
from inference.weights.safetensors_header import LFS_POINTER
from interface.errors import LoadError
from interface.requests import TextPrompt
from tests.support.checkpoint_folders import save
from tests.support.gguf_files import write_gguf
from tests.support.tiny_models import CONTEXT, VOCABULARY, bpe_tokenizer, model_of, reference_output

Mutation = Callable[[Path], object]
GGUF, WEIGHTS = "model.gguf", "model.safetensors"
PROMPT = "hello"


def sound_llama() -> PreTrainedModel:
    return model_of(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=64,
            max_position_embeddings=CONTEXT,
            initializer_range=0.2,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


# --- Mutations of a folder --------------------------------------------------------------------------------------------


def cut(name: str, keep: float) -> Mutation:
    """Keep only the beginning of a file."""
    return lambda folder: os.truncate(folder / name, int((folder / name).stat().st_size * keep))


def flip(name: str, at: int, bits: int = 0xFF) -> Mutation:
    """Change a byte; a negative place counts from the end."""

    def mutate(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[at] ^= bits
        (folder / name).write_bytes(data)

    return mutate


def set_keys(**changes: object) -> Mutation:
    """Change what config.json says."""

    def mutate(folder: Path) -> None:
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | changes))

    return mutate


def without(key: str) -> Mutation:
    def mutate(folder: Path) -> None:
        settings = json.loads((folder / "config.json").read_text())
        del settings[key]
        (folder / "config.json").write_text(json.dumps(settings))

    return mutate


def in_header(old: bytes, new: bytes) -> Mutation:
    """Replace something of the same length in a safetensors header."""

    def mutate(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        assert len(old) == len(new)
        assert old in data
        (folder / WEIGHTS).write_bytes(data.replace(old, new, 1))

    return mutate


ABSURD: dict[str, list[object]] = {
    "hidden_size": [0, -1, 33, 10**18, 1.5, None, "32"],
    "num_attention_heads": [0, -4, 3, 10**9],
    "num_key_value_heads": [0, 3, 10**9],
    "num_hidden_layers": [0, -1, 3, 10**9, 10**30],
    "intermediate_size": [0, 65, 10**12],
    "vocab_size": [0, -5, 319, 10**12],
    "head_dim": [0, 7, 10**9],
    "hidden_act": ["nonsense", 5],
    "rms_norm_eps": [-1.0, float("nan"), 1e300, "small"],
    "max_position_embeddings": [0, -1, 10**18],
    "dtype": ["int8", "float64", "nonsense", 7],
    "model_type": ["gpt2", "mamba", "bert", 7],
    "architectures": [["NoSuchModel"], 7],
    "rope_parameters": [
        {"rope_type": "nonsense", "rope_theta": 1e4},
        {"rope_type": "default", "rope_theta": 0.0},
        {"rope_type": "default", "rope_theta": -1.0},
        {"rope_type": "yarn", "rope_theta": 1e4},
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 0.0},
        [],
    ],
    "eos_token_id": [-1, 10**12, "no such token", {"id": 1}],
    "quantization_config": [{}, {"quant_method": "gptq"}, 7],
}
KEYS = ("model_type", "hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size")


def in_tokenizer(place: str, value: object, file: str = "tokenizer.json") -> Mutation:
    """Put a value at a place, with a slash between its keys."""

    def mutate(folder: Path) -> None:
        described = json.loads((folder / file).read_text())
        *way, last = place.split("/")
        inner = described
        for key in way:
            inner = inner[int(key) if isinstance(inner, list) else key]
        inner[int(last) if isinstance(inner, list) else last] = value
        (folder / file).write_text(json.dumps(described))

    return mutate


UNKNOWN_PIECE = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
TOKENIZERS: dict[str, list[object]] = {
    "model": [None, [], {"type": "Nope"}, {"type": "Unigram", "unk_id": 99, "vocab": [["a", 0.0]]}],
    "model/vocab": [{}, {"a": -1}, {"a": 2**40}, 7],
    "model/merges": [[["x", "y"]], ["x"], 7],
    "added_tokens": ["x", []],
    "added_tokens/0/id": [-3, 2**40],
    "added_tokens/0/content": [None, ""],
    "normalizer": [{"type": "Nope"}],
    "pre_tokenizer": [{"type": "Split", "pattern": {"Regex": "(((("}, "behavior": "Isolated", "invert": False}],
    "post_processor": [
        {"type": "TemplateProcessing", "single": [UNKNOWN_PIECE], "pair": [], "special_tokens": {}},
    ],
    "padding": [{"strategy": {"Fixed": 10**9}}],
}
TOKENIZER_CONFIGS: dict[str, list[object]] = {
    "bos_token": [5, ["x"]],
    "tokenizer_class": ["NoSuchTokenizer", 7],
    "model_max_length": ["x", -1],
    "auto_map": [{"AutoTokenizer": ["own.Tokenizer", None]}],
    "added_tokens_decoder": [{"x": {}}],
}


def folder_mutations() -> Iterator[tuple[str, Mutation]]:
    for name in ("config.json", "tokenizer.json", WEIGHTS, "generation_config.json", "tokenizer_config.json"):
        for keep in (0, 0.01, 0.5, 0.999):
            yield f"{name} cut to {keep}", cut(name, keep)
    for name in ("config.json", "tokenizer.json"):
        for at in (0, 40, 200):
            yield f"{name} with byte {at} flipped", flip(name, at)
    for at in (0, 6, 9, 30, 60, 100):
        yield f"{WEIGHTS} with byte {at} flipped", flip(WEIGHTS, at)
    yield "a bit of a weight flipped", flip(WEIGHTS, -4, 1)
    yield "a weight made infinite", lambda folder: overwrite_end(folder / WEIGHTS, struct.pack("<f", float("inf")))
    yield "a shape changed", in_header(b'"shape":[32,32]', b'"shape":[64,16]')
    yield "a type changed", in_header(b'"dtype":"F32"', b'"dtype":"I32"')
    yield "a tensor renamed", in_header(b"mlp.up_proj", b"mlp.pu_proj")
    for key, values in ABSURD.items():
        for value in values:
            yield f"{key} is {value!r}", set_keys(**{key: value})
    for key in KEYS:
        yield f"{key} left out", without(key)
    for file, changes in (("tokenizer.json", TOKENIZERS), ("tokenizer_config.json", TOKENIZER_CONFIGS)):
        for place, values in changes.items():
            for value in values:
                yield f"{place} of {file} is {value!r}", in_tokenizer(place, value, file)
    yield "no tokenizer", lambda folder: (folder / "tokenizer.json").unlink()
    yield "no weights", lambda folder: (folder / WEIGHTS).unlink()
    yield "untouched", lambda folder: None


def overwrite_end(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes()[: -len(data)] + data)


# --- Mutations of a GGUF file -----------------------------------------------------------------------------------------


def number_at(at: int, form: str, value: int) -> Mutation:
    """Write a number at a place of the file's beginning."""

    def mutate(folder: Path) -> None:
        data = bytearray((folder / GGUF).read_bytes())
        struct.pack_into(form, data, at, value)
        (folder / GGUF).write_bytes(data)

    return mutate


def after(key: str, skip: int, form: str, value: float) -> Mutation:
    """Write a number so many bytes after a key, or after the name of a tensor."""

    def mutate(folder: Path) -> None:
        data = (folder / GGUF).read_bytes()
        number_at(data.index(key.encode()) + len(key) + skip, form, int(value))(folder)

    return mutate


def misspelt(key: str) -> Mutation:
    """Take a key away, by giving it another name of the same length."""

    def mutate(folder: Path) -> None:
        data = (folder / GGUF).read_bytes()
        (folder / GGUF).write_bytes(data.replace(key.encode(), b"x" * len(key), 1))

    return mutate


def gguf_mutations() -> Iterator[tuple[str, Mutation]]:
    for keep in (0, 0.001, 0.01, 0.05, 0.2, 0.5, 0.9, 0.9999):
        yield f"a file cut to {keep}", cut(GGUF, keep)
    for at in (0, 4, 5, 7, 8, 12, 15, 16, 20, 23, 24, 31, 32, 40, 60, 61, 64, 100, 200, 300, 500, 1000, 2000, 3000):
        yield f"byte {at} flipped", flip(GGUF, at)
    yield "a bit of a weight flipped", flip(GGUF, -40, 1)
    yield "2**60 tensors", number_at(8, "<Q", 2**60)
    yield "2**60 keys", number_at(16, "<Q", 2**60)
    yield "a key of 2**62 bytes", number_at(24, "<Q", 2**62)
    yield "a list of 2**61 tokens", after("tokenizer.ggml.tokens", 8, "<Q", 2**61)
    yield "a list of bytes as long as the file", after("tokenizer.ggml.tokens", 4, "<I", 0)
    for key, values in {
        "llama.block_count": (0, 1, 3, 10**9),
        "llama.embedding_length": (0, 33, 2**31),
        "llama.attention.head_count": (0, 3, 2**31),
        "llama.attention.head_count_kv": (0, 3, 2**31),
        "llama.feed_forward_length": (0, 65, 2**31),
        "llama.context_length": (0, 2**32 - 1),
        "llama.attention.key_length": (0, 7, 2**31),
        "llama.rope.dimension_count": (0, 7, 2**31),
    }.items():
        for value in values:
            yield f"{key} is {value}", after(key, 4, "<I", value)
        yield f"{key} left out", misspelt(key)
    yield "no tokens", misspelt("tokenizer.ggml.tokens")
    yield "no merges", misspelt("tokenizer.ggml.merges")
    yield "a merge of no known tokens", after("tokenizer.ggml.merges", 4 + 12 + 8, "<B", ord("!"))
    yield "a pointer of Git LFS", lambda folder: (folder / GGUF).write_text(f"{LFS_POINTER.decode()}v1\noid sha256:1\n")
    yield "a norm left out", misspelt("blk.1.ffn_norm.weight")
    for dimensions in (0, 5, 2**32 - 1):
        yield f"{dimensions} dimensions", after("blk.0.attn_q.weight", 0, "<I", dimensions)
    for size in (0, 31, 2**40):
        yield f"rows of {size}", after("blk.0.attn_q.weight", 4, "<Q", size)
    for kind in (1, 2, 8, 14, 16, 99):
        yield f"tensors of type {kind}", after("blk.0.attn_q.weight", 20, "<I", kind)
    yield "a tensor where another is", after("blk.0.attn_q.weight", 24, "<Q", 0)
    yield "a tensor past the end", after("blk.0.attn_q.weight", 24, "<Q", 2**50)
    yield "untouched", lambda folder: None


# --- The program ------------------------------------------------------------------------------------------------------


def transformers_says(folder: Path, prompt_ids: list[int]) -> list[int]:
    """The text that transformers itself generates from the damaged files."""
    path = folder / GGUF
    if path.exists():
        model: Any = sound_llama()
        read: Any = load_gguf_checkpoint(  # type: ignore[no-untyped-call]
            path, return_tensors=True, model_to_load=model, torch_dtype=torch.float32
        )
        model.load_state_dict(read["tensors"])
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return reference_output(model, prompt_ids, 5)


def outcome_of(folder: Path) -> dict[str, object]:
    path = folder / GGUF
    try:
        engine = Engine.load(Config(model=str(path if path.exists() else folder), device="cpu", max_streams=2))
    except LoadError as error:
        return {"outcome": "refused", "message": str(error)}
    except Exception as error:
        return {"outcome": "raised", "message": f"{type(error).__name__}: {error}"}
    ids = engine.generate(PROMPT, max_tokens=5, temperature=0, ignore_eos=True)["token_ids"]
    prompt_ids = list(engine.tokenize(TextPrompt(PROMPT)).token_ids)
    expected = transformers_says(folder, prompt_ids)
    return {"outcome": "served" if ids == expected else "wrong", "message": f"{ids}, expected {expected}"}


def main(folder: Path) -> None:
    sound = save(folder / "sound", sound_llama())
    (folder / "sound-gguf").mkdir()
    write_gguf(folder / "sound-gguf" / GGUF, sound_llama(), bpe_tokenizer())
    outcome_of(sound)  # what the first load imports is no mutation's memory
    outcome_of(folder / "sound-gguf")
    kinds = {"folder": (sound, folder_mutations()), "GGUF": (folder / "sound-gguf", gguf_mutations())}
    for kind, (source, mutations) in kinds.items():
        for name, mutate in mutations:
            damaged = Path(shutil.copytree(source, folder / "damaged"))
            mutate(damaged)
            before, began = peak_memory(), time.perf_counter()
            result = outcome_of(damaged) | {"name": f"{kind}: {name}", "file": str(damaged)}
            result |= {"seconds": time.perf_counter() - began, "bytes": peak_memory() - before}
            print(json.dumps(result), flush=True)
            shutil.rmtree(damaged)


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]))

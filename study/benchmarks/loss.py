"""What quantized products cost in quality on a real model: perplexity, and how far the predictions are from exact ones.

    python -m study.benchmarks.loss model.gguf
    python -m study.benchmarks.loss model.gguf --text README.md --chunks 8

The text is cut into chunks of 512 tokens; as in llama.cpp's `llama-perplexity`, the second half of each is scored, so
the figures can be compared with those of

    llama-quantize --allow-requantize model.gguf exact.gguf F32
    llama-perplexity -m exact.gguf -f TEXT -c 512 --chunks 8 --kl-divergence-base base
    llama-perplexity -m model.gguf -f TEXT -c 512 --chunks 8 --kl-divergence-base base --kl-divergence

Exact is float32 with the file's numbers as they are. Compared with it are the file's blocks in the decoder in C++, with
inputs of eight bits; its numbers in bfloat16; and those rounded once more, to int8 and int4, as a checkpoint in
bfloat16 would be. At last, greedy text: for how many prompts, lines of the text, all of it is as in float32.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from config import Config
from engine import Engine
from inference.cache.kv_cache import KVCache
from inference.decoders.decoder import Decoder
from inference.decoders.native.decoder import NativeDecoder, build_for
from inference.decoders.torch_decoder import TorchDecoder
from inference.tensor_thread import on_tensor_thread
from inference.weights import llama
from inference.weights.checkpoint import load_checkpoint
from inference.weights.llama import Llama
from study.common.launcher import ROOT
from study.common.text import piece_of_text

CHUNK = 512
PROMPTS, PROMPT_WORDS, NEW_TOKENS = 50, 12, 24


def load(path: Path, dtype: str, compile: bool) -> Llama:
    """The file's model in pieces, its blocks as they are or dequantized."""
    config = Config(model=str(path), dtype=dtype, compile=compile, context=CHUNK, device="cpu")
    model = load_checkpoint(config).model
    return model if isinstance(model, Llama) else llama.take_apart(model, CHUNK)


def decoders(path: Path, cache: KVCache) -> Iterator[tuple[str, Decoder]]:
    """Each way to compute the model; the exact one comes first."""
    yield "float32", TorchDecoder(load(path, "float32", compile=False))
    yield "blocks, compiled", _native(load(path, "bfloat16", compile=True), cache)
    yield "bfloat16, compiled", _native(load(path, "bfloat16", compile=False), cache)
    for kind in ("int8", "int4"):
        yield f"{kind}, compiled", _native(llama.quantized(load(path, "bfloat16", compile=False), kind), cache)


def _native(model: Llama, cache: KVCache) -> NativeDecoder:
    return NativeDecoder(build_for(model, model.formats), model, cache)


def scored(decoder: Decoder, cache: KVCache, chunks: Sequence[Tensor]) -> Tensor:
    """Log probabilities [scored, vocabulary] after each token of every chunk's second half but the last token."""
    half = CHUNK // 2
    logits = [decoder.forward(piece_of_text(chunk, cache))[half:-1] for chunk in chunks]
    return torch.cat(logits).float().log_softmax(-1)


@torch.inference_mode()
def predictions(path: Path, text: str, count: int) -> None:
    tokenizer = load_checkpoint(Config(model=str(path), compile=True, context=CHUNK, device="cpu")).tokenizer
    ids = torch.tensor(tokenizer(text)["input_ids"])
    chunks = list(ids[: len(ids) // CHUNK * CHUNK].view(-1, CHUNK))[:count]
    following = torch.cat([chunk[CHUNK // 2 + 1 :] for chunk in chunks])
    print(f"{len(chunks)} chunks, {len(following)} tokens scored")
    exact: Tensor | None = None
    cache = KVCache(1, CHUNK)
    for name, decoder in decoders(path, cache):
        found = scored(decoder, cache, chunks)
        perplexity = math.exp(-found.gather(-1, following[:, None]).mean().item())
        exact = found if exact is None else exact
        divergence = (exact.exp() * (exact - found)).sum(-1).mean().item()
        same = (exact.argmax(-1) == found.argmax(-1)).float().mean().item()
        print(f"{name:20} perplexity {perplexity:9.4f}  KL {divergence:.6f}  same best token {same:.2%}", flush=True)
        cache = KVCache(1, CHUNK)


def greedy_texts(path: Path, prompts: Sequence[str], dtype: str, compile: bool) -> list[list[int]]:
    engine = Engine.load(Config(model=str(path), dtype=dtype, compile=compile, context=CHUNK, device="cpu"))
    made = [engine.generate(prompt, max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True) for prompt in prompts]
    return [answer["token_ids"] for answer in made]


def texts(path: Path, text: str) -> None:
    """Compare greedy texts, and how many tokens they have in common from the first on."""
    lines = [line.split() for line in text.splitlines()]
    prompts = [" ".join(words[:PROMPT_WORDS]) for words in lines if len(words) >= PROMPT_WORDS][:PROMPTS]
    exact = greedy_texts(path, prompts, "float32", compile=False)
    for dtype in ("float32", "bfloat16"):
        found = greedy_texts(path, prompts, dtype, compile=True)
        equal = sum(one == other for one, other in zip(exact, found, strict=True))
        common = [_common(one, other) for one, other in zip(exact, found, strict=True)]
        print(
            f"blocks, {dtype}, compiled: {equal} of {len(prompts)} texts of {NEW_TOKENS} tokens as in float32", end=""
        )
        print(f"; {sum(common) / len(common):.1f} tokens in common on average", flush=True)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--text", type=Path, default=ROOT / "docs" / "engine-speed.md")
    parser.add_argument("--chunks", type=int, default=8)
    options = parser.parse_args()
    text = options.text.read_text()
    on_tensor_thread(lambda: predictions(options.gguf, text, options.chunks))
    texts(options.gguf, text)


if __name__ == "__main__":
    main()

"""What quantized products cost in quality on a real model: perplexity, and the divergence from exact predictions.

    python -m study.benchmarks.loss model.gguf
    python -m study.benchmarks.loss model.gguf --peer-perplexity PATH/llama-perplexity
    python -m study.benchmarks.loss model.gguf --peer-perplexity PATH/llama-perplexity --kinds Q4_0,Q4_K,Q5_K,Q6_K,Q8_0

The text is cut into chunks of 512 tokens; as in llama.cpp's `llama-perplexity`, the second half of each is scored.
"Exact" is float32 with the file's dequantized weights. Compared with it are the file's blocks in the decoder in C++,
with inputs rounded to eight bits and with inputs as they are (ENGINE_DTYPE=float32); its weights in bfloat16; and these
rounded once more, to int8 and int4, as a checkpoint in bfloat16 would be. Last come greedy texts after lines of the
text: how many of them equal those of float32.

With `--peer-perplexity`, llama.cpp computes the same tokens from the same file, and its predictions are compared with
the same exact ones. `--kinds` does that for other formats too: `llama-quantize`, which is expected in the same folder,
writes the file's weights in each of them. A matrix whose inputs are no multiple of 256 cannot have a K format; the
format that it gets instead is printed.
"""

import argparse
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from inference.weights.gguf.file import GGUFFile
from inference.weights.llama import Llama
from inference.weights.take_apart import take_apart
from study.benchmarks.saved_log_probs import PeerFailed, SavedLogProbs, as_saved, computed_by, requantized
from study.common.arguments import argument_parser
from study.common.launcher import ROOT
from study.common.text import piece_of_text

CHUNK = 512
PROMPTS, PROMPT_WORDS, NEW_TOKENS = 50, 12, 24
TEXT = ROOT / "study" / "benchmarks" / "running_text.txt"
PEERS: Mapping[str, Sequence[str]] = {
    "llama.cpp": (),
    "llama.cpp, cache in float32": ("--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off"),
}
"""llama.cpp's options: its defaults, which have keys and values in float16, and a cache in float32."""

Scored = Callable[[int], Tensor]
"""Log probabilities [scored, vocabulary] after each token of a chunk's second half but the last one."""


def load(path: Path, dtype: str, compile: bool) -> Llama:
    """The file's model in pieces, its blocks as they are or dequantized."""
    config = Config(model=str(path), dtype=dtype, compile=compile, context=CHUNK, device="cpu")
    model = load_checkpoint(config).model
    return model if isinstance(model, Llama) else take_apart(model, CHUNK)


def decoders(path: Path, only_blocks: bool) -> Iterator[tuple[str, Decoder, KVCache]]:
    """Each way to compute the model, with a cache of its own; the exact one comes first."""
    yield "float32", TorchDecoder(load(path, "float32", compile=False)), KVCache(1, CHUNK)
    yield "blocks, compiled", *_native(load(path, "bfloat16", compile=True))
    if only_blocks:
        return
    yield "blocks, compiled, float32", *_native(load(path, "float32", compile=True))
    yield "bfloat16, compiled", *_native(load(path, "bfloat16", compile=False))
    for kind in ("int8", "int4"):
        yield f"{kind}, compiled", *_native(llama.quantized(load(path, "bfloat16", compile=False), kind))


def _native(model: Llama) -> tuple[NativeDecoder, KVCache]:
    cache = KVCache(1, CHUNK)
    return NativeDecoder(build_for(model, model.formats), model, cache), cache


def scored(decoder: Decoder, cache: KVCache, chunk: Tensor) -> Tensor:
    """Log probabilities [scored, vocabulary] after each token of the chunk's second half but the last token."""
    logits = decoder.forward(piece_of_text(chunk, cache))[CHUNK // 2 : -1]
    return as_saved(logits.float().log_softmax(-1))


class Comparison:
    """Prints how well each way predicts the chunks, compared with the first way."""

    def __init__(self, chunks: Sequence[Tensor]) -> None:
        self._following = [chunk[CHUNK // 2 + 1 :] for chunk in chunks]
        self._exact: list[Tensor] = []
        print(f"{len(chunks)} chunks, {sum(map(len, self._following))} tokens scored")
        print(f"{'':28}{'perplexity':>11}{'KL divergence':>22}{'median':>10}{'same best token':>17}")

    def add(self, name: str, scored: Scored) -> None:
        """Compare a way to compute the log probabilities of chunk 0, 1 and so on."""
        losses, divergences, same = [], [], []
        is_exact = not self._exact
        for number, following in enumerate(self._following):
            found = scored(number)
            if is_exact:
                self._exact.append(found)
            exact = self._exact[number]
            losses.append(-found.gather(-1, following[:, None]).flatten())
            divergences.append((exact.exp() * (exact - found)).sum(-1))
            same.append(exact.argmax(-1) == found.argmax(-1))
        divergence = torch.cat(divergences)
        error = divergence.std().item() / math.sqrt(len(divergence))
        print(f"{name:28}{math.exp(torch.cat(losses).mean().item()):>11.4f}", end="")
        print(f"{divergence.mean().item():>11.6f} ± {error:.6f}{divergence.median().item():>10.6f}", end="")
        print(f"{torch.cat(same).float().mean().item():>17.2%}", flush=True)


@torch.inference_mode()
def predictions(path: Path, chunks: Sequence[Tensor], peers: Mapping[str, SavedLogProbs], only_blocks: bool) -> None:
    comparison = Comparison(chunks)
    for name, decoder, cache in decoders(path, only_blocks):
        comparison.add(name, lambda number: scored(decoder, cache, chunks[number]))  # noqa: B023
    for name, saved in peers.items():
        comparison.add(name, saved.chunk)


def chunks_of(path: Path, text: str, count: int) -> list[Tensor]:
    """The text's tokens, in as many whole chunks as there are, or `count`."""
    tokenizer = load_checkpoint(Config(model=str(path), compile=True, context=CHUNK, device="cpu")).tokenizer
    ids = torch.tensor(tokenizer(text)["input_ids"])
    return list(ids[: len(ids) // CHUNK * CHUNK].view(-1, CHUNK))[:count]


def compare_file(path: Path, options: argparse.Namespace, scratch: Path, only_blocks: bool = False) -> None:
    """A table for one file: our ways, and llama.cpp's on the same tokens if its program is given."""
    file = GGUFFile.open(path)
    kinds = Counter(blocks.kind.name for blocks in file.tensors.values() if len(blocks.shape) > 1)
    print(f"\n{path.name}: matrices in {', '.join(f'{kind} ({number})' for kind, number in kinds.items())}")
    chunks = chunks_of(path, options.text.read_text(), options.chunks)
    names = [] if options.peer_perplexity is None else list(PEERS)[:1] if only_blocks else list(PEERS)
    peers = {name: _peer(name, path, chunks, options, scratch) for name in names}
    on_tensor_thread(lambda: predictions(path, chunks, peers, only_blocks))


def _peer(name: str, path: Path, chunks: Sequence[Tensor], options: argparse.Namespace, scratch: Path) -> SavedLogProbs:
    settings = [*PEERS[name], "--threads", str(torch.get_num_threads()), "--chunks", str(len(chunks))]
    saved = computed_by(options.peer_perplexity, path, options.text, scratch / f"{name}.logits", CHUNK, settings)
    if not torch.equal(saved.tokens, torch.stack(list(chunks))):
        raise PeerFailed("expected both to cut the text into the same tokens; llama.cpp has others")
    return saved


def compare(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="loss-") as folder:
        scratch = Path(folder)
        compare_file(options.gguf, options, scratch)
        if not options.kinds:
            return
        quantizer = options.peer_perplexity.with_name("llama-quantize")
        exact = requantized(quantizer, options.gguf, "F32", scratch / "F32.gguf")
        for kind in options.kinds:
            path = requantized(quantizer, exact, kind, scratch / f"{kind}.gguf")
            compare_file(path, options, scratch, only_blocks=True)
            path.unlink()


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
        pairs = list(zip(exact, found, strict=True))
        equal = sum(expected == answer for expected, answer in pairs)
        common = [_common(expected, answer) for expected, answer in pairs]
        print(
            f"blocks, {dtype}, compiled: {equal} of {len(prompts)} texts of {NEW_TOKENS} tokens as in float32", end=""
        )
        print(f"; {sum(common) / len(common):.1f} tokens in common on average", flush=True)


def _common(expected: Sequence[int], answer: Sequence[int]) -> int:
    return next((at for at, (a, b) in enumerate(zip(expected, answer, strict=True)) if a != b), len(expected))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--chunks", type=int, default=8, help="the most chunks of the text (default: %(default)s)")
    parser.add_argument("--peer-perplexity", type=Path, metavar="PROGRAM", help="llama.cpp's llama-perplexity")
    parser.add_argument(
        "--kinds", type=lambda text: text.split(","), default=[], help="also the same numbers in Q4_0,Q4_K,…"
    )
    parser.add_argument(
        "--greedy", action=argparse.BooleanOptionalAction, default=True, help="compare greedy texts at the end"
    )
    options = parser.parse_args(arguments)
    if options.kinds and not options.peer_perplexity:
        parser.error("--kinds needs --peer-perplexity: llama-quantize, in the same folder, writes these files")
    try:
        compare(options)
    except PeerFailed as error:
        sys.exit(str(error))
    if options.greedy:
        texts(options.gguf, options.text.read_text())


if __name__ == "__main__":
    main()

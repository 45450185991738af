"""What a precision costs in quality: the perplexity of the bundled model's answers in each that it can run in.

    python -m study.benchmarks.perplexity

The texts are drawn by the training's program, from all of its parts, with another seed. The model knows many of the
answers word by word, and should still do so in each precision. Perplexity is e to the mean of -log p over the tokens of
the answers, each given all before it.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from inference.cache.kv_cache import KVCache
from inference.decoders.decoder import Decoder
from inference.decoders.native.decoder import NativeDecoder, build_for
from inference.decoders.torch_decoder import TorchDecoder
from inference.weights import llama
from inference.weights.take_apart import take_apart
from study.common.arguments import argument_parser
from study.common.text import piece_of_text
from training import corpus
from training.rows import Encoded, encode
from training.settings import FULL, MODEL

DOCUMENTS = 400
"""Of each part of the training."""
PRECISIONS = (("float32", torch.float32), ("bfloat16", torch.bfloat16))


def perplexity(decoder: Decoder, cache: KVCache, documents: Sequence[Encoded]) -> float:
    """The perplexity of all the documents' answers together."""
    total, count = 0.0, 0
    for document in documents:
        ids = torch.tensor(document.ids.astype("int64"))
        of_answer = torch.tensor(document.weights[1:]) > 0
        probabilities = decoder.forward(piece_of_text(ids, cache))[:-1].log_softmax(-1)
        total -= probabilities.gather(-1, ids[1:, None])[of_answer].sum().item()
        count += int(of_answer.sum())
    return math.exp(total / count)


def decoders(dtype: torch.dtype, cache: KVCache) -> Iterator[tuple[str, Decoder]]:
    """The bundled model with torch, compiled, and with its matrices in eight and in four bits."""
    yield "default", TorchDecoder(take_apart(_model(dtype), cache.row_length))
    for kind in (None, "int8", "int4"):
        taken = take_apart(_model(dtype), cache.row_length)
        if kind is not None:
            taken = llama.quantized(taken, kind)
        yield f"compiled, {kind or 'plain'}", NativeDecoder(build_for(taken, taken.formats), taken, cache)


def _model(dtype: torch.dtype) -> PreTrainedModel:
    """A new one: taking it apart leaves nothing of it."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(MODEL, dtype=dtype)
    return model


@torch.inference_mode()
def main() -> None:
    argument_parser(__doc__).parse_args()
    tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(MODEL))
    # Questions count for nothing, so that a weight says: a token of an answer.
    parts = tuple(part._replace(documents=DOCUMENTS, question_weight=0.0) for part in FULL.parts)
    settings = dataclasses.replace(FULL, seed=FULL.seed + 1000, parts=parts)
    documents = encode(settings, tokenizer, corpus.documents(settings))
    print(f"{len(documents)} documents, {sum(len(document.ids) for document in documents)} tokens")
    for precision, dtype in PRECISIONS:
        cache = KVCache(1, FULL.context)
        for name, decoder in decoders(dtype, cache):
            print(f"{precision}, {name}: perplexity {perplexity(decoder, cache, documents):.5f}", flush=True)


if __name__ == "__main__":
    main()

"""What eight bits cost in quality: the perplexity of the bundled model's answers, in each precision it can run in.

    python -m benchmarks.perplexity

The texts are made by the program that made the training's, with another seed: the model has seen their like, and
hardly any of them. Perplexity is e to the mean of -log p over the tokens of the answers, each given all before it.
"""

import dataclasses
import math
from collections.abc import Sequence
from itertools import islice
from typing import cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from inference import llama
from inference.batch import Batch, Decoder
from inference.kv_cache import KVCache
from inference.native.decoder import NativeDecoder, build_for
from training import corpus
from training.rows import Encoded, encode
from training.settings import FULL, MODEL

DOCUMENTS = 1000
PRECISIONS = (("float32", torch.float32), ("bfloat16", torch.bfloat16))


def perplexity(decoder: Decoder, cache: KVCache, documents: Sequence[Encoded]) -> float:
    """Of all the documents' answers together."""
    total, count = 0.0, 0
    for document in documents:
        ids = torch.tensor(document.ids.astype("int64"))
        of_answer = torch.tensor(document.weights[1:]) > 0
        probabilities = _logits(decoder, cache, ids)[:-1].log_softmax(-1)
        total -= probabilities.gather(-1, ids[1:, None])[of_answer].sum().item()
        count += int(of_answer.sum())
    return math.exp(total / count)


def _logits(decoder: Decoder, cache: KVCache, ids: Tensor) -> Tensor:
    """[tokens, vocabulary], of a text that is prefilled in one step."""
    numbers = torch.stack([ids, torch.arange(len(ids)), torch.zeros_like(ids)])
    return decoder.forward(
        Batch(
            cache=cache,
            token_ids=numbers[0:1],
            positions=numbers[1:2],
            slots=numbers[2],
            columns=numbers[1],
            runs=[],
            segments=[],
            sampled=torch.arange(len(ids)),
        )
    )


@torch.inference_mode()
def main() -> None:
    tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(MODEL))
    # Questions count for nothing, so that a weight says: a token of an answer.
    settings = dataclasses.replace(
        FULL, seed=FULL.seed + 1000, parts=tuple(part._replace(question_weight=0.0) for part in FULL.parts)
    )
    documents = encode(settings, tokenizer, islice(corpus.documents(settings), DOCUMENTS))
    print(f"{DOCUMENTS} documents, {sum(len(document.ids) for document in documents)} tokens")
    for name, dtype in PRECISIONS:
        for is_quantized in (False, True):
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(MODEL, dtype=dtype)
            cache = KVCache(1, FULL.context)
            library = build_for(model, is_quantized)
            decoder = NativeDecoder(library, llama.take_apart(model, cache.columns), cache, is_quantized)
            found = perplexity(decoder, cache, documents)
            print(f"{name}{', matrices in eight bits' * is_quantized}: perplexity {found:.5f}", flush=True)


if __name__ == "__main__":
    main()

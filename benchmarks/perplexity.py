"""What weights in eight bits cost in quality: the bundled model's perplexity with and without.

    python -m benchmarks.perplexity

The text is 1,000 documents as the training's are, drawn with another seed; only the answers' tokens count. Lower is
better; 1 would be a model that knows every next token.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from inference.quantization import round_weights
from training import corpus
from training.rows import Encoded, encode
from training.settings import FULL, MODEL

DOCUMENTS = 1000


def perplexity(model: PreTrainedModel, documents: list[Encoded]) -> float:
    """e to the mean cross-entropy of the answers' tokens."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for ids, weights in tqdm(documents, desc="read", unit="doc"):
            logits = model(torch.from_numpy(ids.astype("int64"))[None]).logits[0, :-1].float()
            losses = F.cross_entropy(logits, torch.from_numpy(ids[1:].astype("int64")), reduction="none")
            answered = torch.from_numpy(weights[1:] > 0)
            total += losses[answered].sum().item()
            count += int(answered.sum())
    return math.exp(total / count)


def loaded(folder: Path) -> PreTrainedModel:
    model = cast(PreTrainedModel, AutoModelForCausalLM.from_pretrained(folder, dtype="auto"))
    nn.Module.eval(model)
    return model


def unseen_documents(folder: Path) -> Iterator[Encoded]:
    """Documents of the training's kinds that were not in the training."""
    tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(folder))
    yield from encode(tokenizer, corpus.documents(replace(FULL, seed=FULL.seed + 1, documents=DOCUMENTS)))


def main() -> None:
    documents = list(unseen_documents(MODEL))
    plain = perplexity(loaded(MODEL), documents)
    model = loaded(MODEL)
    round_weights(model)
    rounded = perplexity(model, documents)
    print(f"bfloat16 {plain:.4f}, int8 {rounded:.4f}: {rounded / plain - 1:+.2%}")


if __name__ == "__main__":
    main()

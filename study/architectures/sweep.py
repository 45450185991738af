"""Tries an architecture: the engine's text must be that of transformers' own `generate`, or it must refuse the model.

Prompts of three lengths run alone and together, in chunks, through the decoder that the engine would choose. A model
that is refused beyond some length is tried once more within it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedModel

from inference.cache.kv_cache import KVCache
from inference.cache.layout import Piece, lay_out
from inference.decoders.decoder import Decoder
from inference.decoders.select import select_decoder
from inference.weights.model_classes import continues_texts
from interface.errors import UnsupportedModel
from study.architectures.checkpoints import VOCABULARY, NotTried, last_line, small_model

torch.set_num_threads(1)  # a second thread costs these models more than it gives

LENGTHS = (150, 3, 40)
"""Tokens of the prompts, in the order in which they are prefilled."""
NEW_TOKENS = 6
CONTEXT = 200
CHUNK = 32
EQUAL = "equal to generate"
WRONG = "WRONG"
REFUSED = "refused"
NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of an architecture. `decoder` and `class_name` are empty if it was not tried."""

    class_name: str
    decoder: str
    outcome: str


def examine(model_type: str) -> Verdict:
    """Try one architecture of transformers."""
    if not continues_texts(CONFIG_MAPPING[model_type]):
        return Verdict("", "", f"{REFUSED}: is not a causal language model; expected one that continues a text")
    try:
        model = small_model(model_type)
    except NotTried as reason:
        return Verdict("", "", f"{NOT_TRIED}: {reason}")
    name = type(model).__name__
    prompts = [prompt_of(length) for length in LENGTHS]
    try:
        expected = [generated(model, prompt) for prompt in prompts]
    except Exception as error:
        return Verdict(name, "", f"{NOT_TRIED}: transformers' generate fails: {last_line(error)}")
    try:
        decoder, outcome = compare(model, prompts, expected)
    except UnsupportedModel as refusal:
        return _within(model_type, name, refusal)
    return Verdict(name, decoder, outcome)


def _within(model_type: str, name: str, refusal: UnsupportedModel) -> Verdict:
    """The verdict on a model that was refused: it may be served within a length that the refusal names."""
    reason = _without_figures(str(refusal), name)
    limit = re.search(r"ENGINE_CONTEXT=(\d+)", str(refusal))
    if limit is None:
        return Verdict(name, "", f"{REFUSED}: {reason}")
    context = int(limit[1])
    model = small_model(model_type)  # made again: a decoder may have changed the first one
    prompts = [prompt_of(context - NEW_TOKENS), prompt_of(3)]
    expected = [generated(model, prompt) for prompt in prompts]
    try:
        decoder, outcome = compare(model, prompts, expected, context)
    except UnsupportedModel as second:
        return Verdict(name, "", f"{REFUSED}: {_without_figures(str(second), name)}")
    return Verdict(name, decoder, f"{outcome} within a length: beyond, {REFUSED}, for it {reason}")


def compare(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    expected: Sequence[Sequence[int]],
    context: int = CONTEXT,
    is_compiled: bool = False,
) -> tuple[str, str]:
    """The decoder that runs a model, which it may take apart, and whether its text is as expected.

    Raises:
        UnsupportedModel: the engine refuses the model.
    """
    with torch.inference_mode():
        cache = KVCache(len(prompts), context, slack=0)  # a window forgets as early as it may
        decoder = select_decoder(model, cache, is_compiled)
        alone = [greedy(decoder, cache, [prompt])[0] for prompt in prompts]
        together = greedy(decoder, cache, prompts)
    wrong = [
        f"{len(prompt)} tokens {how}"
        for how, found in (("alone", alone), ("together", together))
        for prompt, generated, should in zip(prompts, found, expected, strict=True)
        if generated != should
    ]
    return decoder.name, f"{WRONG}: {', '.join(wrong)}" if wrong else EQUAL


@dataclass(slots=True)
class _Stream:
    slot: int
    prompt: Sequence[int]
    cached: int = 0
    output: list[int] = field(default_factory=list)

    @property
    def is_prefilled(self) -> bool:
        return self.cached >= len(self.prompt)

    def chunk(self) -> Piece:
        end = min(len(self.prompt), self.cached + CHUNK)
        return Piece(self.slot, self.cached, self.prompt[self.cached : end], sampled=int(end == len(self.prompt)))


def greedy(decoder: Decoder, cache: KVCache, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The texts of prompts that run together: each step decodes a token of each stream and prefills a chunk."""
    streams = [_Stream(slot, prompt) for slot, prompt in enumerate(prompts)]
    while running := [stream for stream in streams if len(stream.output) < NEW_TOKENS]:
        decoding = [stream for stream in running if stream.is_prefilled]
        prefilling = [stream for stream in running if not stream.is_prefilled][:1]
        chunks = [stream.chunk() for stream in prefilling]
        steps = [Piece(stream.slot, stream.cached, stream.output[-1:]) for stream in decoding]
        logits = decoder.forward(lay_out(steps, chunks, cache, torch.device("cpu")))
        for stream, piece in zip([*decoding, *prefilling], [*steps, *chunks], strict=True):
            stream.cached = piece.end
        sampled = decoding + [stream for stream in prefilling if stream.is_prefilled]
        for stream, token_id in zip(sampled, logits.argmax(-1).tolist(), strict=True):
            stream.output.append(token_id)
    return [stream.output for stream in streams]


def generated(model: PreTrainedModel, prompt: Sequence[int]) -> list[int]:
    """The tokens that transformers' own greedy `generate` adds to a prompt."""
    ids = torch.tensor([list(prompt)])
    generated: Tensor = model.generate(  # type: ignore[operator]
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        num_beams=1,
        no_repeat_ngram_size=0,
        forced_bos_token_id=None,
        forced_eos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return [int(token_id) for token_id in generated[0, ids.shape[1] :]]


def prompt_of(length: int) -> list[int]:
    """A prompt of so many tokens, the same each time."""
    chance = torch.Generator().manual_seed(length)
    # Ids from 5 on: the first ones are special in many a config.
    return [int(token_id) for token_id in torch.randint(5, VOCABULARY, (length,), generator=chance)]


def _without_figures(reason: str, name: str) -> str:
    """A refusal without figures that depend on the machine or the config."""
    reason = reason.removeprefix(f"{name} ").removeprefix("cannot run on this engine's cache: ")
    reason = re.sub(r" \(by [^)]*% of the largest\)", "", reason)
    return re.sub(r" Up to there it works: .*", "", reason).rstrip(".")

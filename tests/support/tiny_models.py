"""Tiny models with random weights, and tokenizers made in memory: the engine's tests need no file and no network.

    engine = tiny_engine("llama", max_streams=4)
    inbox = Inbox()
    sequence_id = submit(engine, inbox, "a prompt", max_tokens=8, temperature=0)
    run_until_idle(engine)
    inbox.token_ids(sequence_id)

The weights are large enough for attention to matter, so that a token read from the wrong place changes the output.
"""

import copy
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    Qwen3Config,
)

from config import Config
from engine import Engine
from inference.text.text_side import GenerationSettings
from inference.weights.checkpoint import Checkpoint
from interface.engine import StepEvents
from interface.events import Event, Failed, Finished, Token
from interface.requests import SequenceId, text_request
from tests.support.own_copy import own_copy

torch.set_num_threads(1)  # a second thread costs these models more than it gives

DEVICE = os.environ.get("TEST_DEVICE", "cpu")
"""Where `tiny_engine` computes: TEST_DEVICE=cuda runs the engine's tests on a GPU, with TEST_COMPILE=1 its kernels."""
COMPILE = os.environ.get("TEST_COMPILE") == "1"
VOCABULARY = 320
CONTEXT = 160
WINDOW = 8
"""The sliding windows' length, shorter than the prompts that are to notice it."""

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
}
_EVERY_OTHER = ["sliding_attention", "full_attention", "sliding_attention"]
NO_ENDS: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
# A random model whose embeddings are tied repeats its last token for ever.
_PLAIN: dict[str, Any] = NO_ENDS | {"tie_word_embeddings": False}
_GPT2_SHAPE: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4}
_GEMMA_SHAPE: dict[str, Any] = {**SHAPE, "num_key_value_heads": 2, "head_dim": 16}

CONFIGS: Mapping[str, Callable[[], PreTrainedConfig]] = {
    "gpt2": lambda: GPT2Config(**_GPT2_SHAPE, **_PLAIN, n_positions=CONTEXT, initializer_range=0.2),
    "qwen3": lambda: Qwen3Config(**SHAPE, **_PLAIN, num_key_value_heads=2, head_dim=16),
    "gemma": lambda: GemmaConfig(**SHAPE, **_PLAIN, num_key_value_heads=1, head_dim=16),
    "llama": lambda: LlamaConfig(**SHAPE, **_PLAIN, num_key_value_heads=2),
    "gemma2": lambda: Gemma2Config(**_GEMMA_SHAPE, **_PLAIN, sliding_window=WINDOW),
    "gemma3": lambda: Gemma3TextConfig(**_GEMMA_SHAPE, **_PLAIN, sliding_window=WINDOW, layer_types=_EVERY_OTHER),
    "cohere2": lambda: Cohere2Config(**_GEMMA_SHAPE, **_PLAIN, sliding_window=WINDOW, layer_types=_EVERY_OTHER),
    "mistral": lambda: MistralConfig(**SHAPE, **_PLAIN, num_key_value_heads=2, sliding_window=WINDOW),
    "qwen2_moe": lambda: Qwen2MoeConfig(
        **SHAPE,
        **_PLAIN,
        num_key_value_heads=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        num_experts=4,
        num_experts_per_tok=2,
        use_sliding_window=True,
        sliding_window=WINDOW,
        max_window_layers=0,
    ),
    "mamba": lambda: MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, **_PLAIN),
}


# --- Models -----------------------------------------------------------------------------------------------------------


def random_model(architecture: str) -> PreTrainedModel:
    """A new model, always the same. (Its config is its own: models share the one that they are given.)"""
    return model_of(CONFIGS[architecture]())


def model_of(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(config))  # type: ignore[no-untyped-call]
    nn.Module.float(model)
    nn.Module.eval(model)
    return model


@cache
def reference_model(architecture: str) -> PreTrainedModel:
    """The model for transformers' own answers; no engine ever touches it."""
    return random_model(architecture)


def reference_output(
    model: PreTrainedModel, prompt_ids: Sequence[int], max_tokens: int, eos_ids: Collection[int] = ()
) -> list[int]:
    """The ids that transformers' own greedy `generate` adds to a prompt."""
    ids = torch.tensor([list(prompt_ids)])
    output: Tensor = model.generate(  # type: ignore[operator]
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=sorted(eos_ids) or None,
        pad_token_id=0,
    )
    return [int(token_id) for token_id in output[0, ids.shape[1] :].tolist()]


@cache
def reference(
    architecture: str,
    prompt: str,
    max_tokens: int,
    tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None,
) -> list[int]:
    """The ids that transformers' own `generate` adds to a prompt; `tokenizer` is one of bytes by default."""
    prompt_ids = (tokenizer or byte_tokenizer)()(prompt)["input_ids"]
    return reference_output(reference_model(architecture), prompt_ids, max_tokens)


def transformers_model(checkpoint: Checkpoint) -> PreTrainedModel:
    """The transformers model of a loaded checkpoint."""
    assert isinstance(checkpoint.model, PreTrainedModel)
    return checkpoint.model


def tiny_engine(
    architecture: str = "llama",
    tokenizer: PreTrainedTokenizerBase | None = None,
    eos_ids: Collection[int] = (),
    context: int = CONTEXT,
    **settings: Any,
) -> Engine:
    """An engine over a model of its own; `settings` are those of `Config`."""
    model = random_model(architecture)
    nn.Module.to(model, DEVICE)
    checkpoint = Checkpoint(model, tokenizer or byte_tokenizer(), context, GenerationSettings(frozenset(eos_ids)))
    return Engine(checkpoint, Config(**{"compile": COMPILE, **settings}))


# --- Tokenizers -------------------------------------------------------------------------------------------------------

SPECIAL_TOKENS = ["<pad>", "<eos>", "<mark>"]


@own_copy
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte, after those of `SPECIAL_TOKENS`. Ids past the end of it decode to nothing."""
    return _byte_level(models.BPE(vocab=_ids(SPECIAL_TOKENS + sorted(pre_tokenizers.ByteLevel.alphabet())), merges=[]))


@own_copy
def bpe_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose tokens are words, characters and parts of characters, trained on a few lines."""
    lines = ["the cat sat on the mat, the cat sat still", "你好，世界。你好！", "😀😁😂 emoji 😀😀", "naïve café"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=SPECIAL_TOKENS, show_progress=False
    )
    tokenizer.train_from_iterator(lines * 4, trainer)
    return _byte_level(tokenizer.model)


@own_copy
def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer as SentencePiece makes them: "▁" for a space, whole words, and bytes for what it has no token for."""
    words = ["▁", "▁the", "▁cat", "s", "at", "▁a", "é", "好", ".", "\n"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(
        models.Unigram(
            [(token, -10.0) for token in SPECIAL_TOKENS] + [(token, -20.0) for token in byte_tokens + words],
            unk_id=0,
            byte_fallback=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _fast(tokenizer)


@own_copy
def syllable_tokenizer() -> PreTrainedTokenizerFast:
    """Every id is a text of one to three characters, so that whatever a random model says can be read."""
    letters = list("abcdefghijklmnopqrstuvwxyz .😀")
    syllables = [first + vowel + last for last in ["", *"nstr "] for first in "bdfgklmnprst" for vowel in "aeiou"]
    tokens = [(token, -10.0) for token in (SPECIAL_TOKENS + letters + syllables)[:VOCABULARY]]
    tokenizer = Tokenizer(models.Unigram(tokens, unk_id=0, byte_fallback=False))
    tokenizer.decoder = decoders.Fuse()
    return _fast(tokenizer)


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The whole text, decoded at once, which the pieces of a stream must add up to."""
    text = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def _byte_level(model: models.Model) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _fast(tokenizer)


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return fast_tokenizer(tokenizer)


def fast_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """A transformers tokenizer, from one of the tokenizers library."""
    settings: dict[str, Any] = {"tokenizer_object": tokenizer, "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(**settings)  # type: ignore[no-untyped-call]


def _ids(tokens: Sequence[str]) -> dict[str, int]:
    return {token: token_id for token_id, token in enumerate(tokens)}


# --- Driving an engine by hand ----------------------------------------------------------------------------------------


class Inbox:
    """A sink that keeps the events of every request."""

    def __init__(self) -> None:
        self.events: dict[SequenceId, list[Event]] = defaultdict(list)

    def __call__(self, events: StepEvents) -> None:
        for sequence_id, event in events:
            self.events[sequence_id].append(event)

    def tokens(self, sequence_id: SequenceId) -> list[Token]:
        return [event for event in self.events[sequence_id] if isinstance(event, Token)]

    def token_ids(self, sequence_id: SequenceId) -> list[int]:
        return [token_id for token in self.tokens(sequence_id) for token_id in token.ids()]

    def text(self, sequence_id: SequenceId) -> str:
        return "".join(token.text for token in self.tokens(sequence_id))

    def ends(self, sequence_id: SequenceId) -> list[Finished | Failed]:
        return [event for event in self.events[sequence_id] if isinstance(event, (Finished, Failed))]

    def end(self, sequence_id: SequenceId) -> Finished | Failed:
        """The request's terminal event, which must be its only one and its last event."""
        [end] = self.ends(sequence_id)
        assert self.events[sequence_id][-1] is end
        return end

    def finish_reason(self, sequence_id: SequenceId) -> str:
        end = self.end(sequence_id)
        assert isinstance(end, Finished), end
        return end.finish_reason


def submit(engine: Engine, inbox: Inbox, prompt: str, max_tokens: int = 50, **settings: Any) -> SequenceId:
    request = text_request(prompt, max_tokens=max_tokens, **settings)
    engine.submit(engine.encode([request]), inbox)
    return request.sequence_id


def run_until_idle(engine: Engine, most_steps: int = 2000) -> int:
    """Step while there is work; return the number of steps."""
    for steps in range(1, most_steps + 1):
        if not engine.step():
            return steps
    raise AssertionError(f"the engine was not idle after {most_steps} steps")

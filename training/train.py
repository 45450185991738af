"""Trains the bundled model from random weights, on a CPU in at most two hours or on a GPU if there is one.

Muon updates the hidden matrices, AdamW the embedding and the norms. The learning rate warms up and then falls to
almost nothing; the last part raises it a little once more. Every hundred steps the whole state is saved in
training/build/state.pt, from where the same command goes on. At the end the weights are written to bundled_model/ in
half precision.

    python -m training.train             # needs training.corpus and training.tokenizer to have run
    python -m training.train --export    # write the weights reached so far and stop
"""

import argparse
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from training import corpus
from training.rows import Batch, Encoded, batch, encode, plan
from training.settings import BUILD, FULL, MODEL, TOY, Settings
from training.tokenizer import BOS, EOS, PAD


def new_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights in the bundled model's shape."""
    bos, eos, pad = (cast(int, tokenizer.convert_tokens_to_ids(token)) for token in (BOS, EOS, PAD))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.mlp,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=bos,
        eos_token_id=eos,
        pad_token_id=pad,
        initializer_range=0.02,
    )
    torch.manual_seed(settings.seed)
    model = LlamaForCausalLM(config)
    # For training on a CPU, two products with a softmax between them are twice as fast as torch's fused attention:
    # a compiler fuses them with the layer, and their backward pass is short.
    model.set_attn_implementation("eager")
    return model


def optimizers(model: LlamaForCausalLM, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for every matrix inside the layers, AdamW for the rest."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(
            matrices, lr=settings.muon_rate, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=settings.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


LEAST_RATE = 0.01


class Step(NamedTuple):
    """One step of the training: what it reads, at which share of the full learning rate."""

    length: int
    rows: list[list[int]]
    rate: float


def steps_of(settings: Settings, encoded: list[Encoded]) -> list[Step]:
    """All steps of the training."""
    steps: list[Step] = []
    first = 0
    for number, part in enumerate(settings.parts):
        planned = plan(settings, encoded, range(first, first + part.documents), settings.seed + number)
        first += part.documents
        for at, (length, rows) in enumerate(planned):
            rate = part.first_rate + (part.last_rate - part.first_rate) * at / len(planned)
            rising = (len(steps) + 1) / settings.warmup
            steps.append(Step(length, rows, min(rising, max(LEAST_RATE, rate))))
    return steps


def layers_of(model: LlamaForCausalLM, settings: Settings, compiled: bool) -> dict[int, Callable[..., Any]]:
    """Everything below the head, for each row length; compiled it runs twice as fast on a CPU.

    The longest rows are one step in a hundred, too few to pay for their compiling.
    """
    layers: dict[int, Callable[..., Any]] = dict.fromkeys(settings.row_lengths, model.model)
    if compiled:
        for length in settings.row_lengths[:-1]:
            layers[length] = torch.compile(model.model, dynamic=False)
    return layers


def weighted_loss(
    head: torch.Tensor, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of [tokens, hidden] states against [tokens] targets, each token with its weight."""
    with torch.autocast(hidden.device.type, dtype=torch.bfloat16):
        logits = F.linear(hidden, head)
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * weights).sum() / weights.sum()


def loss_of(
    model: LlamaForCausalLM,
    layers: Callable[..., Any],
    loss: Callable[..., torch.Tensor],
    rows: Batch,
    device: torch.device,
) -> torch.Tensor:
    """The loss of the tokens that have a weight: answers, and faintly questions."""
    ids, weights, segments, positions = (torch.from_numpy(a).to(device) for a in rows)
    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    own = segments[:, None, :, None] == segments[:, None, None, :]  # [rows, 1, query, key]
    hidden_from = torch.zeros(own.shape, device=device).masked_fill(~(own & causal), -1e4)  # added to the scores
    # The logits of tokens without a weight are never computed.
    chosen = weights.flatten().nonzero().squeeze(1)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        states = layers(
            input_ids=ids, attention_mask=hidden_from, position_ids=positions, use_cache=False
        ).last_hidden_state
    return loss(
        model.lm_head.weight, states.flatten(0, 1)[chosen], ids.flatten()[chosen + 1], weights.flatten()[chosen]
    )


def export(model: LlamaForCausalLM, folder: Path) -> None:
    """Write config, generation config and half-precision weights; the tokenizer is already there."""
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.bfloat16()
    half.config.dtype = torch.bfloat16
    config = model.config
    half.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        do_sample=True,
        temperature=0.7,
    )
    half.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)


def _fingerprint(settings: Settings, build: Path, folder: Path) -> str:
    """What a saved state belongs to: these settings, this tokenizer, this corpus."""
    digest = hashlib.sha256(repr(settings).encode())
    for path in (folder / "tokenizer.json", corpus.path_of(build)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _save(path: Path, state: dict[str, Any]) -> None:
    """Write another file and rename it, so that a stop in the middle leaves the older state whole."""
    torch.save(state, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


class Training:
    """A model and its optimizers, after some number of steps. `state_file` keeps them for a later run."""

    def __init__(self, settings: Settings, tokenizer: PreTrainedTokenizerFast, state_file: Path) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = cast(LlamaForCausalLM, new_model(settings, tokenizer).to(self.device))  # type: ignore[arg-type]
        self.step = 0
        self._settings = settings
        self._optimizers = optimizers(self.model, settings)
        self._state_file = state_file

    def go_on(self, made_from: str) -> None:
        """Take up the saved state, if there is one.

        Raises:
            SystemExit: it is that of another training.
        """
        if not self._state_file.exists():
            return
        state = torch.load(self._state_file, map_location=self.device, weights_only=True)
        if state.get("made_from") != made_from:
            raise SystemExit(
                f"{self._state_file} belongs to a training with other settings or texts; remove it to start again"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]
        print(f"going on at step {self.step}")

    def learn(self, loss: torch.Tensor, rate: float) -> None:
        """Change the weights by a step that has this loss, at this share of the full learning rate."""
        for optimizer in self._optimizers:
            full = self._settings.muon_rate if isinstance(optimizer, torch.optim.Muon) else self._settings.adam_rate
            for group in optimizer.param_groups:
                group["lr"] = full * rate
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1

    def save(self, made_from: str) -> None:
        saved = [optimizer.state_dict() for optimizer in self._optimizers]
        state = {"model": self.model.state_dict(), "optimizers": saved, "step": self.step, "made_from": made_from}
        _save(self._state_file, state)


def train(
    settings: Settings, build: Path, folder: Path, compiled: bool = False, export_only: bool = False
) -> list[float]:
    """Train to the end (or from the saved state on), export, and return the losses of this run.

    Raises:
        SystemExit: the saved state is that of another training.
    """
    tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(folder))
    training = Training(settings, tokenizer, build / "state.pt")
    made_from = _fingerprint(settings, build, folder)
    training.go_on(made_from)
    losses: list[float] = []
    if not export_only:
        encoded = encode(settings, tokenizer, corpus.read(build))
        steps = steps_of(settings, encoded)
        print(f"{len(encoded)} documents, {sum(len(e.ids) for e in encoded)} tokens, {len(steps)} steps")
        for loss in _losses(training, settings, encoded, steps, compiled):
            losses.append(loss)
            if training.step % settings.save_every == 0 or training.step == len(steps):
                training.save(made_from)
    export(training.model.cpu(), folder)
    return losses


def _losses(
    training: Training, settings: Settings, encoded: list[Encoded], steps: list[Step], compiled: bool
) -> Iterator[float]:
    """Make the steps that are left, and yield the loss of each."""
    layers = layers_of(training.model, settings, compiled)
    loss_fn = torch.compile(weighted_loss, dynamic=True) if compiled else weighted_loss
    mean, began = 0.0, time.monotonic()
    todo = range(training.step, len(steps))
    progress = tqdm(todo, initial=training.step, total=len(steps), desc="train", unit="step", miniters=1)
    training.model.train()
    for at in progress:
        length, rows, rate = steps[at]
        loss = loss_of(training.model, layers[length], loss_fn, batch(settings, encoded, length, rows), training.device)
        training.learn(loss, rate)
        mean = loss.item() if at == todo.start else 0.98 * mean + 0.02 * loss.item()
        progress.set_postfix(loss=f"{mean:.3f}", minutes=f"{(time.monotonic() - began) / 60:.1f}")
        yield loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.train", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--toy", action="store_true", help="a minute's training that proves the program")
    parser.add_argument("--build", type=Path, default=BUILD, help="folder with the corpus and the training state")
    parser.add_argument("--model", type=Path, default=MODEL, help="folder with the tokenizer, for the weights")
    parser.add_argument("--export", action="store_true", help="write the weights reached so far and stop")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-compile", action="store_true", help="do without torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    compiled = not (options.toy or options.no_compile) and bool(shutil.which("g++") or shutil.which("clang++"))
    train(TOY if options.toy else FULL, options.build, options.model, compiled, options.export)


if __name__ == "__main__":
    main()

"""Says what the server would do with a checkpoint, and compares it with the model alone: attach it to a bug report.

    python -m inference.check MODEL

MODEL is what ENGINE_MODEL may be, and the other settings are read from the environment as the server reads them. The
exit status is 0 if the model is served, 1 if it is refused, 2 if a setting is wrong. Unlike the server's own check at
the start, this one takes as long as it takes: every length that the config names is tried with the whole model. What is
compiled for it is kept as the server keeps it, so the first start after a check need not compile.
"""

import signal

if __name__ == "__main__":  # at Ctrl-C Python would show a traceback, for much of the time one of the imports below
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from config import Config, ConfigError
from inference.cache.kv_cache import KVCache
from inference.choosers import chooser_for
from inference.decoders.decoder import Decoder
from inference.decoders.select import examine
from inference.decoders.start_check.trial import Finding, Trial
from inference.early_compilers import compile_ahead
from inference.messages import first_line
from inference.sampling.choose import NativeChooser
from inference.tensor_thread import on_tensor_thread
from inference.weights.checkpoint import Checkpoint, load_checkpoint
from inference.weights.context import reach_of
from inference.weights.llama import Llama
from interface.errors import LoadError

SLOTS = 2
"""Enough for a text and a neighbour. The memory of more slots is a multiple of theirs."""

Line = tuple[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a checkpoint and print what was found; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m inference.check", description="What the server does with a model.")
    parser.add_argument(
        "model", nargs="?", type=os.path.expanduser, help="folder, GGUF file or hub name; by default ENGINE_MODEL"
    )
    options = parser.parse_args(arguments)
    try:
        config = Config.from_environment()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.model is not None:
        config = dataclasses.replace(config, model=options.model)
    compile_ahead(config)
    return on_tensor_thread(lambda: _report(config))


def _report(config: Config) -> int:
    _print([("model", config.model)])
    try:
        checkpoint = load_checkpoint(config)
        _print(described(checkpoint))
        _print(examined(checkpoint, config))
    except LoadError as error:
        _print([("result", f"refused: {error}")])
        return 1
    except Exception as error:  # a bug report is not helped by a second fault
        _print([("result", f"refused: {type(error).__name__}: {first_line(error)}")])
        return 1
    _print([("result", "served")])
    return 0


def described(checkpoint: Checkpoint) -> Iterator[Line]:
    """What a checkpoint is, before anything computes with it."""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    yield from _described_llama(model) if isinstance(model, Llama) else _described_model(model)
    yield "precision", f"{str(model.dtype).removeprefix('torch.')} on {model.device}"
    reach = None if isinstance(model, Llama) else reach_of(model.config.get_text_config())
    yield "context", f"{checkpoint.context} tokens" + (f"; the model reaches {reach}" if reach is not None else "")
    ends = [f"{token_id} {_token(tokenizer, token_id)!r}" for token_id in sorted(checkpoint.generation.eos_ids)]
    yield "ends", ", ".join(ends) or "no EOS token: a text ends at max_tokens or a stop string"
    template = getattr(tokenizer, "chat_template", None)
    yield "template", _described_template(template) if template else "none: the chat endpoints refuse"
    defaults = ", ".join(f"{name} {value:g}" for name, value in checkpoint.generation.sampling_defaults.items())
    yield "sampling", f"where a request names none: {defaults}" if defaults else "the engine's own defaults"


def _token(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str | None:
    """A token's text; None for an id that the tokenizer does not have."""
    return tokenizer.convert_ids_to_tokens([token_id])[0] if 0 <= token_id < len(tokenizer) else None


def _described_template(template: str | dict[str, str]) -> str:
    named = {"": template} if isinstance(template, str) else template
    return ", ".join(f"{name} of {len(text)} characters".removeprefix(" of ") for name, text in named.items())


def _described_model(model: PreTrainedModel) -> Iterator[Line]:
    parameters: list[Tensor] = list(model.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    yield "architecture", f"{type(model).__name__} ({model.config.model_type}), {count:,} parameters"
    yield "weights", _bytes(sum(parameter.numel() * parameter.element_size() for parameter in parameters))


def _described_llama(model: Llama) -> Iterator[Line]:
    """A model of the Llama type whose matrices stay as the file has them."""
    matrices = [model.embedding, model.head, *(matrix for layer in model.layers for matrix in layer.matrices.values())]
    distinct = {id(matrix): matrix for matrix in matrices}.values()
    count = sum(matrix.shape[0] * matrix.shape[1] for matrix in distinct)
    yield "architecture", f"Llama type, {count:,} parameters, in {', '.join(sorted(model.formats)) or 'the precision'}"
    yield (
        "weights",
        _bytes(sum(matrix.nbytes if isinstance(matrix, Tensor) else matrix.blocks.nbytes for matrix in distinct)),
    )


@torch.inference_mode()
def examined(checkpoint: Checkpoint, config: Config) -> Iterator[Line]:
    """Which decoder takes the model, what its cache costs, and how it compares with the model alone."""
    cache = KVCache(SLOTS, checkpoint.context)
    decoder, findings = (
        _examined_llama(checkpoint.model, cache, config)
        if isinstance(checkpoint.model, Llama)
        else (examine(checkpoint.model, cache, config.is_compiled, config.quantize, is_bounded=False))
    )
    yield "decoder", decoder.name
    yield "cache", _cached(cache, config.max_streams)
    for finding in findings:
        yield "compared", _sentence(finding)
    chooser = chooser_for(checkpoint.model.device, config.is_compiled, torch.get_num_threads())
    yield "tokens", f"chosen {'in C++' if isinstance(chooser, NativeChooser) else 'with operators of torch'}"


def _cached(cache: KVCache, streams: int) -> str:
    """What the cache takes: for each token, and once for each stream for windows and states, whose size is fixed."""
    rings = [layer for layer in cache.rows.layers.values() if layer.window is not None]
    in_rings = sum(layer.bytes for layer in rings)
    in_states = cache.storage.state_bytes
    per_token = (cache.storage.bytes - in_rings - in_states) / (cache.slots * cache.row_length)
    size = f"{_bytes(per_token)} per token"
    if rings:
        windows = " or ".join(str(window) for window in sorted({layer.window or 0 for layer in rings}))
        size += f" and {_bytes(in_rings / cache.slots)} per stream for {len(rings)} layers that look back {windows}"
    if in_states:
        size += f" and {_bytes(in_states / cache.slots)} per stream for states"
    return f"{size}, {_bytes(cache.storage.bytes / cache.slots * streams)} for {streams} streams"


def _examined_llama(model: Llama, cache: KVCache, config: Config) -> tuple[Decoder, Sequence[Finding]]:
    """Compare matrices in a file's own formats with what transformers makes of the file."""
    decoder, _ = examine(model, cache, config.is_compiled, config.quantize)
    alone = load_checkpoint(dataclasses.replace(config, compile=False, quantize=None)).model
    assert isinstance(alone, PreTrainedModel)
    trial = Trial(alone, cache, depends_on_length=False)
    trial.verify_quantized(decoder, "the file's own formats")
    return decoder, trial.findings


def _sentence(finding: Finding) -> str:
    reached = f", beyond the config's {finding.setting}" if finding.setting else ""
    return f"{finding.tokens} tokens in pieces, next to a neighbour{reached}: off by {finding.difference:.2g}"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def _print(lines: Iterator[Line] | Sequence[Line]) -> None:
    for name, text in lines:
        print(f"{name:<13}{text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""The check at the start: a decoder must give the logits that the model gives by itself.

Two texts run together, the longer one in pieces, as requests do. First a short one; then one that is longer than every
length that the config names within the context (windows, chunks, blocks, scaling floors), for what depends on length
does not show below. What the model says by itself has to be asked before a decoder takes it over.

The check is bounded in time. Where a long text would take the whole model longer than `WHOLE_MODEL_SECONDS`, it goes
through the first layers only, as many as it takes to have one of each kind. Where that too would take longer than
`FEW_LAYERS_SECONDS`, the length is not tried, and a warning says so.
"""

import inspect
import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from inference.cache.batch import Piece, lay_out
from inference.cache.kv_cache import KVCache
from inference.decoders.decoder import Decoder
from interface.errors import UnsupportedModel

log = logging.getLogger("engine")

TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.02}
"""How far a logit may be from the model's own, relative to the largest, before the model counts as unsupported."""
EXACT_TOLERANCE = 1e-3
"""The same in float32."""
QUANTIZED_TOLERANCE = 1.0
"""The root mean square of the difference, relative to the logits', where weights are rounded to few bits. Logits that
have nothing to do with each other differ by 1.4; quantized products are tried out by themselves, to rounding."""

SHORT, NEIGHBOUR = 12, 5
"""Tokens of the text that every model is tried with, and of the one next to it."""
LONG = 150
"""Tokens of one more text where the check may take its time."""
COMPARED = 7
"""How many of a text's last tokens are compared: one ends the prompt, the others are decoded."""
TOGETHER = 4
"""How many of them are computed next to the neighbour; the rest are decoded alone."""
PACE = 64
"""Tokens of the prompt that the model's pace is taken from."""
PIECE = 512
"""Tokens of a long text that are prefilled at once."""
BEYOND = 12
"""How many tokens a text goes beyond a length that the config names."""
WHOLE_MODEL_SECONDS, FEW_LAYERS_SECONDS = 10.0, 60.0

LENGTH_NAMES = re.compile(
    r"window(?!_layers|.*pattern)|chunk|block_size|original_max_position|floor|index_topk$|local_attention|local_blocks"
)
"""What configs call the lengths at which something changes."""
PRODUCTS = (("index_topk_blocks", "index_block_size"),)
"""Lengths that are the product of two settings."""


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids, and the logits [compared, vocabulary] that the model by itself gives for the last of them."""

    token_ids: Sequence[int]
    expected: Tensor


@dataclass(frozen=True, slots=True)
class LengthTrial:
    """A text that goes beyond a length that the config names; `layers` of the model compute it."""

    setting: str
    length: int
    texts: Sequence[Text]  # and its neighbour
    layers: int | None  # None: all


@dataclass(frozen=True, slots=True)
class Finding:
    """What came out of one comparison: how far the logits were from the model's own, relative to the largest."""

    tokens: int
    setting: str  # why so many: "" or what the config calls the length that they go beyond
    difference: float


class Trial:
    """Texts with the model's own logits, and what they find out about a decoder.

    Args:
        depends_on_length: False for a decoder whose every token is computed alike; it is then tried beyond the config's
            lengths only if the whole model does that quickly.
        is_bounded: False to take as long as it takes, with the whole model.

    Raises:
        UnsupportedModel: the model by itself gives no logits.
    """

    def __init__(
        self, model: PreTrainedModel, cache: KVCache, depends_on_length: bool = True, is_bounded: bool = True
    ) -> None:
        self.findings: list[Finding] = []
        self._model = model
        self._name = type(model).__name__
        self._is_exact = model.dtype not in TOLERANCE
        self._tolerance = TOLERANCE.get(model.dtype, EXACT_TOLERANCE)
        self._cache = cache
        self._neighbour = self._text(NEIGHBOUR, TOGETHER)
        self._short = [self._text(SHORT), self._neighbour]
        self._lengths = list(self._length_trials(depends_on_length, is_bounded))

    def verify_quantized(self, decoder: Decoder, kind: str) -> None:
        """Try a decoder whose weights have been rounded to few bits, and say how much that changes.

        Raises:
            UnsupportedModel: little of the model's own logits is left.
        """
        difference = self._difference(decoder, self._short, measure=_typical_difference)
        if not difference <= QUANTIZED_TOLERANCE:
            raise UnsupportedModel(
                f"With weights in {kind} {self._name} gives other logits (by {difference:.1%}). Serve it without "
                f"ENGINE_QUANTIZE."
            )
        log.info("With weights in %s the logits of a short text differ by %.1f%%", kind, 100 * difference)

    def verify(self, decoder: Decoder) -> None:
        """Try a decoder with the short text and its neighbour.

        Raises:
            UnsupportedModel: the logits are not the model's own.
        """
        difference = self._difference(decoder, self._short)
        if not difference <= self._tolerance:
            raise UnsupportedModel(
                f"{self._name} gives other logits on this engine's cache than by itself (by "
                f"{difference:.1%} of the largest). Expected a decoder that keeps only the keys and values of layers."
            )

    def verify_lengths(self, decoder: Decoder) -> None:
        """Try a decoder that has passed `verify` beyond each length that the config names.

        Raises:
            UnsupportedModel: from some length on the logits are not the model's own.
        """
        for trial in self._lengths:
            try:
                with shortened(self._model, trial.layers):
                    difference = self._difference(decoder, trial.texts, trial.setting)
                reason = f"gives other logits than by itself (by {difference:.1%} of the largest)"
            except Exception as error:
                difference, reason = float("nan"), f"cannot be computed ({first_line(error)})"
            if difference <= self._tolerance:
                continue
            if not trial.setting:
                raise UnsupportedModel(f"{self._name} {reason} on this engine's cache at {LONG} tokens.")
            raise UnsupportedModel(
                f"{self._name} {reason} on this engine's cache beyond {trial.length} tokens, the config's "
                f"{trial.setting}. Up to there it runs right: set the context to {trial.length} "
                f"(ENGINE_CONTEXT={trial.length})."
            )

    def _length_trials(self, depends_on_length: bool, is_bounded: bool) -> Iterator[LengthTrial]:
        few = layers_of_each_kind(self._model)
        lengths = {
            setting: length
            for setting, length in named_lengths(self._model.config).items()
            if length < self._cache.context
        }
        pace = self._seconds_per_token() if lengths else 0.0
        for setting, length in sorted(lengths.items(), key=lambda item: item[1]):
            tokens = min(length + BEYOND, self._cache.context)
            seconds = pace * tokens
            if seconds <= WHOLE_MODEL_SECONDS or not is_bounded:
                yield LengthTrial(setting, length, [self._text(tokens), self._neighbour], layers=None)
            elif not depends_on_length:
                continue
            elif few is not None and seconds * few.share <= FEW_LAYERS_SECONDS:
                with shortened(self._model, few.count):
                    texts = [self._text(tokens), self._text(NEIGHBOUR, TOGETHER)]
                yield LengthTrial(setting, length, texts, few.count)
            else:
                log.warning(
                    "Not checked beyond %d tokens, the config's %s: that would take about %.0f s. To stay below, set "
                    "ENGINE_CONTEXT=%d.",
                    *(length, setting, seconds, length),
                )
        if not is_bounded and self._cache.context > SHORT:
            yield LengthTrial("", 0, [self._text(LONG), self._neighbour], layers=None)

    def _seconds_per_token(self) -> float:
        """How long the model takes for a token of a prompt."""
        began = time.perf_counter()
        text = self._text(PACE, compared=1)
        return (time.perf_counter() - began) / len(text.token_ids)

    def _text(self, tokens: int, compared: int = COMPARED) -> Text:
        tokens = min(tokens, self._cache.context)
        weight = self._model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        chance = torch.Generator().manual_seed(tokens)
        # Ids from 1 on: 0 is padding in many a model, and some count positions without it.
        token_ids = torch.randint(1, len(weight), (tokens,), generator=chance).tolist()
        return Text(token_ids, own_logits(self._model, token_ids, min(compared, tokens)))

    def _difference(
        self,
        decoder: Decoder,
        texts: Sequence[Text],
        setting: str = "",
        measure: Callable[[Tensor, Tensor], float] | None = None,
    ) -> float:
        """How far a decoder's logits are from the model's own, relative to the largest; the neighbour's as well."""
        texts = texts[: self._cache.slots]
        found = in_pieces(decoder, self._cache, self._model.device, [list(text.token_ids) for text in texts])
        measure = measure or self._largest_difference
        differences = [measure(logits, text.expected) for logits, text in zip(found, texts, strict=True)]
        difference = next((difference for difference in differences if math.isnan(difference)), max(differences))
        self.findings.append(Finding(len(texts[0].token_ids), setting, difference))
        return difference

    def _largest_difference(self, logits: Tensor, expected: Tensor) -> float:
        """Of any row of [compared, vocabulary]; in half precision the middle row's, of those together or alone.

        There, a router may choose another expert when a sum is rounded another way, and that token's logits jump. What
        is wrong with a decoder shows in every row.
        """
        differences = (logits.float() - expected.float()).abs().amax(-1) / expected.float().abs().max()
        if self._is_exact:
            return float(differences.max().item())
        return float(torch.stack([rows.median() for rows in torch.split(differences, TOGETHER)]).max().item())


def _typical_difference(logits: Tensor, expected: Tensor) -> float:
    """Root mean square, relative to the logits'."""
    return float((torch.linalg.norm(logits.float() - expected.float()) / torch.linalg.norm(expected.float())).item())


def own_logits(model: PreTrainedModel, token_ids: Sequence[int], wanted: int) -> Tensor:
    """What a model by itself says: the logits [wanted, vocabulary] of the last tokens.

    They are computed as transformers' `generate` does, the last ones one by one over a cache of its own: that cache may
    forget what is outside a window.

    Raises:
        UnsupportedModel: it says nothing, or no numbers.
    """
    name = type(model).__name__
    ids = torch.tensor([list(token_ids)], device=model.device)
    try:
        logits = _as_generate_computes(model, ids, wanted)
    except Exception as error:
        raise UnsupportedModel(
            f"{name} cannot compute a text of {len(token_ids)} tokens by itself: {first_line(error)}"
        ) from error
    if not logits.isfinite().all():
        raise UnsupportedModel(
            f"{name} by itself gives logits that are not finite, in {str(model.dtype).removeprefix('torch.')}. Either "
            f"its weights are damaged, or the precision is too narrow for them: try ENGINE_DTYPE=float32."
        )
    return logits


def _as_generate_computes(model: PreTrainedModel, ids: Tensor, wanted: int) -> Tensor:
    takes_keep = takes_logits_to_keep(model)
    prompt = ids.shape[1] - wanted + 1
    output = model(ids[:, :prompt], use_cache=True, **({"logits_to_keep": 1} if takes_keep else {}))
    cache = getattr(output, "past_key_values", None)
    if cache is None:  # a model without keys and values, or without a cache for them
        output = model(ids, use_cache=False, **({"logits_to_keep": wanted} if takes_keep else {}))
        logits: Tensor = output.logits[0, -wanted:]
        return logits
    rows = [output.logits[0, -1]]
    for position in range(prompt, ids.shape[1]):
        output = model(ids[:, position : position + 1], past_key_values=cache, use_cache=True)
        rows.append(output.logits[0, -1])
    return torch.stack(rows)


def in_pieces(decoder: Decoder, cache: KVCache, device: torch.device, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """The logits [compared, vocabulary] of the last tokens of each of one or two texts that run together.

    The first, which is the longer, is prefilled in pieces, the last of them together with the other's prompt. Then a
    few tokens of each are decoded, and the last ones of the longer by itself.
    """
    slots = [cache.slots - 1 - number for number in range(len(texts))]
    # The longer one goes on when the other has ended, so that steps of a single token are tried as well.
    decoded = [min(compared, len(text)) - 1 for compared, text in zip((COMPARED, TOGETHER), texts, strict=False)]
    prompts = [len(text) - count for text, count in zip(texts, decoded, strict=True)]
    found: list[list[Tensor]] = [[] for _ in texts]

    def run(decoding: dict[int, Piece], chunks: dict[int, Piece]) -> None:
        logits = decoder.forward(lay_out(list(decoding.values()), list(chunks.values()), cache, device))
        sampled = [number for pieces in (decoding, chunks) for number, piece in pieces.items() if piece.is_sampled]
        for number, row in zip(sampled, logits, strict=True):
            found[number].append(row)

    first = prompts[0]
    size = min(PIECE, max(1, first // 2))
    starts = range(0, first, size)
    for start in starts:
        end = min(first, start + size)
        chunks = {0: Piece(slots[0], start, texts[0][start:end], is_sampled=end == first)}
        if end == first and len(texts) > 1:
            chunks[1] = Piece(slots[1], 0, texts[1][: prompts[1]])
        run({}, chunks)
    for step in range(max(decoded)):
        run(
            {
                number: Piece(slots[number], prompts[number] + step, [text[prompts[number] + step]])
                for number, text in enumerate(texts)
                if step < decoded[number]
            },
            {},
        )
    return [torch.stack(rows) for rows in found]


def named_lengths(config: PreTrainedConfig) -> dict[str, int]:
    """The lengths that a config names, at which a model may begin to compute otherwise."""
    lengths: dict[str, int] = {}

    def collect(settings: dict[str, Any]) -> None:
        for name, value in settings.items():
            if isinstance(value, dict):
                collect({str(inner): setting for inner, setting in value.items()})
            elif type(value) is int and value > 1 and LENGTH_NAMES.search(name):
                lengths[name] = value

    text_config = config.get_text_config()
    collect(text_config.to_dict())
    for factors in PRODUCTS:
        values = [getattr(text_config, name, None) for name in factors]
        if all(isinstance(value, int) for value in values):
            lengths[" x ".join(factors)] = int(torch.tensor(values).prod())
    return lengths


@dataclass(frozen=True, slots=True)
class FewLayers:
    """The first layers of a model, so many that there is one of each kind; `share` of them all."""

    count: int
    share: float


def layers_of_each_kind(model: PreTrainedModel) -> FewLayers | None:
    """None if it cannot be told which modules are the layers."""
    layers = _layer_list(model)
    if layers is None:
        return None
    declared = getattr(model.config.get_text_config(), "layer_types", None) or [None] * len(layers[2])
    kinds = [(kind, _kind(layer)) for kind, layer in zip(declared, layers[2], strict=False)]
    count = max(kinds.index(kind) for kind in kinds) + 1
    return FewLayers(count, count / len(kinds))


@contextmanager
def shortened(model: PreTrainedModel, count: int | None) -> Iterator[None]:
    """Within this, a model has its first `count` layers only; None: all of them."""
    found = None if count is None else _layer_list(model)
    if found is None:
        yield
        return
    parent, name, layers = found
    setattr(parent, name, nn.ModuleList(list(layers)[:count]))
    try:
        yield
    finally:
        setattr(parent, name, layers)


def _layer_list(model: PreTrainedModel) -> tuple[nn.Module, str, nn.ModuleList] | None:
    """Where a model keeps its layers, if there is one list of as many modules as the config says."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    return lists[0] if len(lists) == 1 else None


def _kind(layer: nn.Module) -> tuple[Any, ...]:
    """What a layer is made of and set to, without its number: layers of one kind compute alike."""
    return tuple((name, type(module).__name__, _settings(module)) for name, module in layer.named_modules())


def _settings(module: nn.Module) -> tuple[Any, ...]:
    plain = {name: value for name, value in vars(module).items() if isinstance(value, int | float | str | None)}
    return tuple(sorted((name, value) for name, value in plain.items() if name not in ("layer_idx", "layer_id")))


def takes_logits_to_keep(model: PreTrainedModel) -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

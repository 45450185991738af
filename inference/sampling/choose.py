"""Compiles choose.cpp and calls it: one call changes a step's logits and chooses its tokens, on a CPU."""

import ctypes
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from inference.cpp.build import build
from inference.sampling.logprobs import TopLogits
from inference.sampling.source import CHOOSER
from inference.scheduling.sample_args import SampleArgs

Chooser = Callable[[Tensor, Sequence[SampleArgs]], list[int | None]]
"""Returns a token id for each row of logits, None where the row is broken: `draw.choose`, or a `NativeChooser`."""


class _Row(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_double) for name in ("temperature", "top_p", "min_p", "uniform")),
        *((name, ctypes.c_double) for name in ("repetition", "presence", "frequency")),
        ("top_k", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("seen_ids", "seen_counts", "bias_ids", "biases", "banned_ids", "mask")),
        *((name, ctypes.c_int64) for name in ("seen_size", "bias_size", "banned_size")),
    )


class NativeChooser:
    """Chooses a token for each row of logits on a CPU.

    Raises:
        CannotBuild: there is no compiler, or it fails.
    """

    def __init__(self, threads: int) -> None:
        self._library = build(CHOOSER)
        self._library.choose.restype = self._library.top_logits.restype = None
        self._threads = threads

    def __call__(self, logits: Tensor, rows: Sequence[SampleArgs]) -> list[int | None]:
        """Return a token id for each row of `logits` [rows, vocabulary], None where the row is broken."""
        logits = logits.float().contiguous()
        row_count, vocabulary = logits.shape
        token_ids = (ctypes.c_int64 * row_count)()
        self._library.choose(
            ctypes.c_void_p(logits.data_ptr()),
            (_Row * row_count)(*(_row(row, vocabulary) for row in rows)),
            ctypes.c_int64(row_count),
            ctypes.c_int64(vocabulary),
            ctypes.c_int64(self._threads),
            token_ids,
        )
        return [None if token_id < 0 else token_id for token_id in token_ids]

    def top_logits(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """What log probabilities are made of: see `logprobs.TopLogits`."""
        row_count, vocabulary = logits.shape
        normalizers, top = torch.empty(row_count, 2), torch.empty(row_count, count)
        ids = torch.empty(row_count, count, dtype=torch.int64)
        self._library.top_logits(
            ctypes.c_void_p(logits.data_ptr()),
            ctypes.c_int64(row_count),
            ctypes.c_int64(vocabulary),
            ctypes.c_int64(self._threads),
            ctypes.c_int64(count),
            *(ctypes.c_void_p(found.data_ptr()) for found in (normalizers, top, ids)),
        )
        return normalizers, top, ids


def top_logits_of(choose: Chooser) -> TopLogits | None:
    """The chooser's own function for log probabilities, if it has one."""
    return choose.top_logits if isinstance(choose, NativeChooser) else None


def _row(args: SampleArgs, vocabulary: int) -> _Row:
    """The arguments of choose.cpp for a row. It has pointers to memory that `args` owns."""
    row = _Row(args.temperature, args.top_p, args.min_p, args.uniform, top_k=min(args.top_k, vocabulary))
    if args.is_greedy:
        row.temperature = 0
    if args.seen is not None:
        row.repetition, row.presence = args.repetition_penalty, args.presence_penalty
        row.frequency = args.frequency_penalty
        row.seen_ids, row.seen_size = args.seen.ids.buffer_info()
        row.seen_counts, _ = args.seen.counts.buffer_info()
    if args.bias is not None:
        row.bias_ids, row.bias_size = args.bias.ids.buffer_info()
        row.biases, _ = args.bias.values.buffer_info()
    if args.banned_ids is not None:
        row.banned_ids, row.banned_size = args.banned_ids.buffer_info()
    if args.mask is not None:
        assert args.mask.size * 32 >= vocabulary
        row.mask = args.mask.ctypes.data
    return row

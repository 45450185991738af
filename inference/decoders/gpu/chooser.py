"""Chooses tokens on a GPU in one kernel, whatever the rows ask for; see `kernels.draw`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from inference.decoders.gpu import kernels
from inference.sampling.adjustments import adjust
from inference.scheduling.sample_args import SampleArgs

COUNTS = 1024
"""Every so many rows, the counts of `kernels.draw` are cleared."""


class KernelChooser:
    """The same as `inference.sampling.draw.choose_on_device`. Changes of the logits are operators of torch here too.

    The kernel reads the rows' settings from the host's memory: a copy to the GPU first would be one thing more that the
    GPU does between a step and the next.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._drawn = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._settings = self._new_settings(1)
        self._counts = torch.zeros(COUNTS, dtype=torch.int32, device=device)
        self._used_counts = 0

    def __call__(self, logits: Tensor, rows: Sequence[SampleArgs]) -> Tensor:
        if not any(row.changes_logits for row in rows):
            return self._chosen(logits, rows)
        usable = kernels.most_likely(logits) >= 0  # checked before and after the changes: a mask may hide NaN
        logits = logits.float().contiguous()
        adjust(logits, rows)
        return torch.where(usable, self._chosen(logits, rows), -1)

    def _chosen(self, logits: Tensor, rows: Sequence[SampleArgs]) -> Tensor:
        if all(row.is_greedy for row in rows):
            return kernels.most_likely(logits)
        if self._drawn is not None:
            self._drawn.synchronize()  # until then, the last draw may read its settings
        if len(rows) > len(self._settings):
            self._settings = self._new_settings(len(rows))
        self._settings.numpy()[: len(rows)] = [_settings_of(row, logits.shape[-1]) for row in rows]
        tokens = kernels.draw(logits, self._settings, self._zeros(len(rows)))
        if self._drawn is not None:
            self._drawn.record()
        return tokens

    def _new_settings(self, rows: int) -> Tensor:
        on_gpu = self._device.type == "cuda"
        return torch.empty(rows, len(kernels.SETTINGS), dtype=torch.float64, pin_memory=on_gpu)

    def _zeros(self, rows: int) -> Tensor:
        """Counts that no kernel has used since they were cleared, at an address that is a multiple of 16 bytes."""
        size = -(-rows // 4) * 4
        if size > len(self._counts):
            return torch.zeros(rows, dtype=torch.int32, device=self._device)
        if self._used_counts + size > len(self._counts):
            self._counts.zero_()
            self._used_counts = 0
        self._used_counts += size
        return self._counts[self._used_counts - size : self._used_counts]


def _settings_of(row: SampleArgs, vocabulary: int) -> tuple[float, ...]:
    """In the order of `kernels.SETTINGS`."""
    temperature = 0.0 if row.is_greedy else row.temperature
    return temperature, row.min_p, min(row.top_k, vocabulary), row.top_p, row.uniform

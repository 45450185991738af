"""Chooses tokens on a GPU in one kernel, whatever the rows ask for; see `kernels.draw`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from inference.decoders.gpu import kernels
from inference.sampling.adjustments import adjust
from inference.scheduling.sample_args import SampleArgs
from inference.transfer import to_device


def choose_on_device(logits: Tensor, rows: Sequence[SampleArgs]) -> Tensor:
    """The same as `inference.sampling.draw.choose_on_device`. Changes of the logits are operators of torch here too."""
    if not any(row.changes_logits for row in rows):
        return _chosen(logits, rows)
    usable = kernels.most_likely(logits) >= 0  # checked before and after the changes: a mask may hide the model's NaN
    logits = logits.float().contiguous()
    adjust(logits, rows)
    return torch.where(usable, _chosen(logits, rows), -1)


def _chosen(logits: Tensor, rows: Sequence[SampleArgs]) -> Tensor:
    if all(row.is_greedy for row in rows):
        return kernels.most_likely(logits)
    settings = torch.tensor([_settings(row, logits.shape[-1]) for row in rows], dtype=torch.float64)
    return kernels.draw(logits, to_device(settings, logits.device))


def _settings(row: SampleArgs, vocabulary: int) -> tuple[float, ...]:
    """In the order of `kernels.draw.SETTINGS`, and the 0 at which the row's programs begin to count."""
    temperature = 0.0 if row.is_greedy else row.temperature
    return temperature, row.min_p, min(row.top_k, vocabulary), row.top_p, row.uniform, 0.0

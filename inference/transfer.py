"""Small tensors on their way to the device."""

import torch
from torch import Tensor


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. The host does not wait: from memory that is not pinned a GPU's driver may make it."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)

"""Reserved addresses of a GPU that get memory only where they are used.

A program may reserve more addresses than it will ever need, and map memory to some of them later. Nothing changes for
code that uses them: a tensor over all the addresses never moves, and a CUDA graph may keep its address.

Sources: "Virtual Memory Management" in CUDA's programming guide; Prabhu et al. 2024, "vAttention: Dynamic Memory
Management for Serving LLMs without PagedAttention".
"""

import importlib
import logging
import weakref
from typing import Any, Protocol

import torch
from torch import Tensor

log = logging.getLogger("engine")

PIECE = 8 * 2**20
"""Bytes that are mapped at once. Each mapping takes the host about as long, however large it is."""


class Memory(Protocol):
    """Bytes of a device, to some of which no memory may be mapped yet."""

    def back(self, first: int, last: int) -> None:
        """Make sure that memory is mapped to the bytes from `first` up to, but not including, `last`.

        Raises:
            torch.OutOfMemoryError: the device has not enough left.
        """

    def tensor(self) -> Tensor:
        """All bytes [size], uint8. Those without memory must not be read or written."""

    @property
    def backed_bytes(self) -> int:
        """How many bytes have memory."""


def memory_of(size: int, device: torch.device) -> Memory:
    """Allocate bytes of a device: only as they are used, if the device can do that."""
    if device.type != "cuda":
        return Whole(size, device)
    try:
        return Reserved(size, device, CudaDriver(device))
    except (ImportError, RuntimeError) as error:  # another torch's CUDA, or a GPU or system that cannot do it
        log.warning("The cache takes all of its memory at once: %s", error)
        return Whole(size, device)


class Whole:
    """Memory that is all allocated at the start."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._bytes = torch.empty(size, dtype=torch.uint8, device=device)

    def back(self, first: int, last: int) -> None:
        pass

    def tensor(self) -> Tensor:
        return self._bytes

    @property
    def backed_bytes(self) -> int:
        return self._bytes.nbytes


class Driver(Protocol):
    """The functions of a GPU's driver that are used here."""

    granularity: int
    """Bytes: addresses and sizes of memory are multiples of it."""

    def reserve(self, size: int) -> int:
        """Reserve addresses, and return the first one."""

    def back(self, address: int, size: int) -> None:
        """Put memory behind reserved addresses, for the GPU to read and write.

        Raises:
            torch.OutOfMemoryError: there is not enough left.
        """

    def release(self, address: int, size: int, backed: list[tuple[int, int]]) -> None:
        """Give back memory, each piece as it was asked for, and then the reserved addresses."""


class Reserved:
    """A range of addresses. Its memory is given back when neither it nor a tensor over it is left."""

    def __init__(self, size: int, device: torch.device, driver: Driver) -> None:
        self._device = device
        self._piece = max(PIECE // driver.granularity, 1) * driver.granularity
        self.size = -(-size // self._piece) * self._piece
        self._driver = driver
        self._address = driver.reserve(self.size)
        self._is_backed = [False] * (self.size // self._piece)
        self._backed: list[tuple[int, int]] = []
        weakref.finalize(self, driver.release, self._address, self.size, self._backed).atexit = False

    @property
    def backed_bytes(self) -> int:
        return sum(size for _, size in self._backed)

    def back(self, first: int, last: int) -> None:
        for number in range(first // self._piece, -(-last // self._piece)):
            if not self._is_backed[number]:
                address = self._address + number * self._piece
                self._driver.back(address, self._piece)
                self._backed.append((address, self._piece))
                self._is_backed[number] = True

    def tensor(self) -> Tensor:
        self.back(0, 1)  # torch asks the first byte which GPU it is of
        return torch.as_tensor(self, device=self._device)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "shape": (self.size,), "typestr": "|u1", "data": (self._address, False)}


class CudaDriver:
    """CUDA's own, by way of the bindings that torch for CUDA brings along."""

    def __init__(self, device: torch.device) -> None:
        self._cuda: Any = importlib.import_module("cuda.bindings.driver")
        torch.cuda.current_stream(device)  # makes the context that all of this needs
        self._kind = self._cuda.CUmemAllocationProp()
        self._kind.type = self._cuda.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        self._kind.location.type = self._cuda.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        self._kind.location.id = torch.cuda.current_device() if device.index is None else device.index
        self._access = self._cuda.CUmemAccessDesc()
        self._access.location = self._kind.location
        self._access.flags = self._cuda.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        smallest = self._cuda.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        self.granularity = int(self._call("cuMemGetAllocationGranularity", self._kind, smallest))

    def reserve(self, size: int) -> int:
        return int(self._call("cuMemAddressReserve", size, 0, 0, 0))

    def back(self, address: int, size: int) -> None:
        memory = self._call("cuMemCreate", size, self._kind, 0)
        self._call("cuMemMap", address, size, 0, memory, 0)
        self._call("cuMemRelease", memory)  # it lives on as long as it is mapped
        self._call("cuMemSetAccess", address, size, [self._access], 1)

    def release(self, address: int, size: int, backed: list[tuple[int, int]]) -> None:
        torch.cuda.synchronize()  # a step may still be using it
        for piece, piece_size in backed:
            self._call("cuMemUnmap", piece, piece_size)
        self._call("cuMemAddressFree", address, size)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the driver; return what it returns besides its error."""
        error, *results = getattr(self._cuda, name)(*arguments)
        if error == self._cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise torch.OutOfMemoryError("The GPU has no memory left for keys and values.")
        if error != self._cuda.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"{name} failed: {error!r}")
        return results[0] if results else None

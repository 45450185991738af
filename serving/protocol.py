"""uvicorn's own HTTP protocol, which takes turns: a client that sends much at once does not hold the loop.

    uvicorn app:app --http serving.protocol:SlicedH11

What the kernel has received comes in pieces of up to 256 KiB. If those are chunks of one byte each, parsing them takes
more than a second. Here they are parsed a slice at a time, and the loop does something else in between.
"""

from collections import deque

from uvicorn.protocols.http.h11_impl import H11Protocol

SLICE = 4096


class SlicedH11(H11Protocol):
    """uvicorn's protocol on h11, with what has come parsed in slices."""

    _slices: deque[bytes] | None = None

    def data_received(self, data: bytes) -> None:
        if self._slices is None and len(data) <= SLICE:
            super().data_received(data)
            return
        slices = [data[start : start + SLICE] for start in range(0, len(data), SLICE)]
        self.transport.pause_reading()
        if self._slices is not None:
            self._slices.extend(slices)
            return
        self._slices = deque(slices)
        self._parse_one()

    def connection_lost(self, exc: Exception | None) -> None:
        self._slices = None
        super().connection_lost(exc)

    def _parse_one(self) -> None:
        if self._slices is None or self.transport.is_closing():
            return
        super().data_received(self._slices.popleft())
        if self._slices:
            self.loop.call_soon(self._parse_one)
            return
        self._slices = None
        if not self.flow.read_paused:
            self.transport.resume_reading()

"""One end of a connection between an engine process and a worker, which sends and receives whole messages."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from backends.wire import HEADER, Malformed, Message, pack, unpack

MAX_BODY = 64 * 1024 * 1024
MAX_UNREAD = 64 * 1024 * 1024
"""Bytes that may wait for the other side to read them."""


class Channel(asyncio.Protocol):
    """Sends and receives messages, without ever waiting for the other side.

    Args:
        on_message: called with each message and its number.
        on_malformed: called for a body that cannot be read; the connection goes on.
        on_lost: called once, when the connection has ended, with the reason.
    """

    def __init__(
        self,
        on_message: Callable[[Message, int], None],
        on_malformed: Callable[[Malformed], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._on_message = on_message
        self._on_malformed = on_malformed
        self._on_lost = on_lost
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._is_finished = False
        self._has_ended = asyncio.Event()
        self._reason = "its process has ended"

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, message: Message, number: int = 0) -> None:
        """Send without waiting; do nothing if the connection has ended. If the other side does not read, cut it.

        Raises:
            ValueError: the message cannot be serialized, or is larger than the other side accepts.
        """
        if self._transport is None or self._transport.is_closing() or self._is_finished:
            return
        frame = pack(message, number)
        if len(frame) > HEADER.size + MAX_BODY:
            raise ValueError(f"expected a message of at most {MAX_BODY} bytes, got one of {len(frame) - HEADER.size}")
        self._transport.write(frame)
        if self._transport.get_write_buffer_size() > MAX_UNREAD:
            self.cut(f"more than {MAX_UNREAD} bytes wait to be read")

    def close(self) -> None:
        """End the connection once all that was sent has been written."""
        if self._transport is not None:
            self._transport.close()

    async def finish(self, limit: float) -> None:
        """Send no more, and end the connection when the other side does, having read all, or after `limit` seconds.

        After `close`, what the other side has yet to read would be lost as soon as it writes.
        """
        self._is_finished = True
        if self._transport is not None:
            with suppress(OSError):  # the other side has just ended it
                self._transport.write_eof()
            with suppress(TimeoutError):
                async with asyncio.timeout(limit):
                    await self._has_ended.wait()
        self.close()

    def cut(self, reason: str) -> None:
        """End the connection at once."""
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio's side ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        at = 0
        while self.is_open and len(received) - at >= HEADER.size:
            length, kind, number = HEADER.unpack_from(received, at)
            if length > MAX_BODY:
                self.cut(f"expected a message of at most {MAX_BODY} bytes, got one of {length}")
                return
            begin = at + HEADER.size
            if len(received) < begin + length:
                break
            at = begin + length
            self._receive(kind, number, received[begin:at])
        del received[:at]

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._has_ended.set()
        self._on_lost(self._reason)

    def _receive(self, kind: int, number: int, body: bytearray) -> None:
        try:
            message = unpack(kind, number, body)
        except Malformed as malformed:
            self._on_malformed(malformed)
            return
        self._on_message(message, number)

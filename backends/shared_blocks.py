"""Keeps what several pieces of bytes have in common once.

Each turn of a conversation is kept with all that came before it, so its bytes begin like those of the turn before. Cut
into blocks of one size, equal beginnings are equal blocks. So a conversation takes about as much memory as its last
turn, where that of all its turns would grow with the square of their number.
"""

from collections.abc import Sequence

BLOCK = 4096
"""Bytes of a block."""

Blocks = Sequence[bytes]
"""A piece in blocks of this size; the last one is shorter and may be empty."""


def cut(piece: bytes) -> Blocks:
    return [piece[start : start + BLOCK] for start in range(0, len(piece) + 1, BLOCK)]


class SharedBlocks:
    """The blocks of all pieces that are kept. `bytes` is their size, with each shared one counted once.

    Only blocks of full size are shared: what is left of a piece is rarely equal to anything.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._by_content: dict[bytes, bytes] = {}
        """For each content, the one block that has it."""
        self._uses: dict[bytes, int] = {}

    def keep(self, blocks: Blocks) -> Blocks:
        """Return equal blocks, which are kept until they have been dropped as often."""
        *whole, rest = blocks
        self.bytes += len(rest)
        return [*map(self._use, whole), rest]

    def drop(self, blocks: Blocks) -> None:
        """Forget blocks that `keep` has returned."""
        *whole, rest = blocks
        self.bytes -= len(rest)
        for block in whole:
            self._uses[block] -= 1
            if not self._uses[block]:
                self.bytes -= len(block)
                del self._uses[block], self._by_content[block]

    def _use(self, block: bytes) -> bytes:
        if (shared := self._by_content.get(block)) is None:
            shared = self._by_content[block] = block
            self._uses[block] = 0
            self.bytes += len(block)
        self._uses[shared] += 1
        return shared

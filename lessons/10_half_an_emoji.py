"""A token may be half a character: decode all of them together, and hold back only an unfinished one.

A byte-level tokenizer knows bytes, not characters, and spreads a rare character over several tokens. Decoded one by
one, each part becomes U+FFFD, the replacement character, and no later part can repair it: what has been sent cannot be
taken back. Waiting for the end would avoid that, but would not stream. The fix is a decoder with a memory. It keeps the
bytes of an unfinished character, returns all text before them, and at the very end returns whatever is left. A client
must do the same, since a read may end in the middle of a character, too.

The service does this for any tokenizer, by looking for the replacement character at the end of the decoded text. It
decodes each token together with those before it, because some tokenizers write a space only between two tokens.

In the service: inference/text/detokenizer.py: Detokenizer.push; inference/text/detokenizer.py: Detokenizer.flush.
"""

import _start

import codecs
from collections.abc import Callable

TEXT = "hi😀 你好!"
TOKENS = [b"hi", b"\xf0\x9f", b"\x98", b"\x80", b" \xe4\xbd", b"\xa0", b"\xe5\xa5\xbd", b"!"]
assert b"".join(TOKENS) == TEXT.encode()


def each_alone(token: bytes) -> str:
    return token.decode(errors="replace")


class AllSoFar:
    """Decode all that has come, and give out what is new: better, but too early all the same."""

    def __init__(self) -> None:
        self.tokens = b""
        self.given = 0

    def push(self, token: bytes) -> str:
        self.tokens += token
        text = self.tokens.decode(errors="replace")
        new, self.given = text[self.given :], len(text)
        return new


class HoldingBack:
    """The same, but an unfinished character waits for the rest of it."""

    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: bytes) -> str:
        return self.decoder.decode(token)

    def flush(self) -> str:
        return self.decoder.decode(b"", final=True)


def show(name: str, push: Callable[[bytes], str]) -> None:
    pieces = [push(token) for token in TOKENS]
    print(f"{name}: {pieces}")
    print(f"    joined: {''.join(pieces)!r}, {'the text' if ''.join(pieces) == TEXT else 'not the text'}")


show("each alone", each_alone)
show("all so far", AllSoFar().push)
show("held back", HoldingBack().push)

cut_short = HoldingBack()
print(
    f"held back, stopped after 2 tokens: {[cut_short.push(token) for token in TOKENS[:2]]}, then {cut_short.flush()!r}"
)

"""Each token's own bytes and text, as the log probabilities of an answer show them.

A token may hold half a character, so its text alone does not say what it is. Byte-level tokenizers write each byte as
a character of a table; those with byte fallback have tokens like `<0xE4>`, and a sign for the space.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
KEPT = 1 << 16
"""Tokens whose bytes are kept, once they have been asked for."""


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[int, str]:
    """The texts of a tokenizer's special tokens, by their ids."""
    return {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}


class TokenBytes:
    """The vocabulary of a tokenizer as bytes. Joined, they are the bytes of the text that the tokens stand for."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._added = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()}
        self._to_bytes = _way_to_bytes(list(_decoders_of(tokenizer)))
        self.bytes_of: Callable[[int], bytes] = lru_cache(KEPT)(self._bytes_of)

    def text_of(self, token_id: int) -> str:
        """The token's own text; bytes that are not a whole character show as U+FFFD."""
        return self.bytes_of(token_id).decode(errors="replace")

    def _bytes_of(self, token_id: int) -> bytes:
        """The token's own bytes; none for an id that the tokenizer has no token for."""
        if token_id in self._added:
            return self._added[token_id].encode()
        if self._to_bytes is None:
            return str(self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False)).encode()
        token: str | None = self._tokenizer.convert_ids_to_tokens([token_id])[0]
        return b"" if token is None else self._to_bytes(token)


def _decoders_of(tokenizer: "PreTrainedTokenizerBase") -> Iterator[dict[str, Any]]:
    """The settings of a fast tokenizer's decoder, step by step; nothing for any other tokenizer."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is not None:
        settings = json.loads(decoder.__getstate__())
        yield from settings["decoders"] if settings["type"] == "Sequence" else [settings]


def _way_to_bytes(decoders: list[dict[str, Any]]) -> Callable[[str], bytes] | None:
    """How a token of the vocabulary becomes bytes; None where only the tokenizer knows."""
    kinds = {decoder["type"] for decoder in decoders}
    if "ByteLevel" in kinds:
        return _byte_level
    signs = [decoder["replacement"] for decoder in decoders if decoder["type"] == "Metaspace"]
    signs += [decoder["pattern"].get("String") for decoder in decoders if _writes_spaces(decoder)]
    if not signs and "ByteFallback" not in kinds:
        return None
    falls_back = "ByteFallback" in kinds

    def to_bytes(token: str) -> bytes:
        if falls_back and (byte := BYTE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        for sign in signs:
            token = token.replace(sign, " ")
        return token.encode()

    return to_bytes


def _writes_spaces(decoder: dict[str, Any]) -> bool:
    return decoder["type"] == "Replace" and decoder["content"] == " " and "String" in decoder["pattern"]


def _byte_level(token: str) -> bytes:
    try:
        return bytes(BYTE_OF_CHARACTER[character] for character in token)
    except KeyError:  # not from the table: added to the vocabulary as it is
        return token.encode()


def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable bytes are written as themselves, the others as the characters from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


BYTE_OF_CHARACTER = _byte_of_character()

"""Compares the tokenizer that transformers makes of a folder with the folder's tokenizer.json.

For many classes transformers takes little more than the vocabulary from that file, and builds the rest itself. Where
the class is not the one that the file was made for, texts lose their words without an error.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from inference.weights.safetensors_header import BadFile

log = logging.getLogger("engine")

SAMPLES = ("Hello, world! It's 12345 o'clock.", "naïve café, 你好", "def f(x):\n    return x + 1")
PARTS = ("normalizer", "pre_tokenizer", "decoder")
"""The parts of a tokenizer, by their names in the file, that classes build themselves."""
VOCABULARY = "model"
"""Where a file has its vocabulary: the last entry, and by far the longest."""
BEFORE_KEY, BEFORE_VALUE = re.compile(r"[\s,{]*"), re.compile(r"[\s:]*")


def refuse_losing(path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a tokenizer keeps the texts that the tokenizer.json that it was made from keeps by itself.

    Raises:
        BadFile: it loses one.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or _has_parts_of(
        beginning(path.read_bytes().decode()), tokenizer.backend_tokenizer
    ):
        return
    alone, name = Tokenizer.from_file(str(path)), type(tokenizer).__name__
    for text, ids, own_ids in _tokenized(alone, tokenizer.backend_tokenizer):
        if _is_kept(text, own_ids, alone.decode) and not _is_kept(text, ids, tokenizer.backend_tokenizer.decode):
            raise BadFile(
                path,
                f"transformers reads it as {name}, for the tokenizer_class or the model_type that the folder names, "
                f"and then it loses texts that by itself it keeps, {text!r} for one. Is it this model's tokenizer?",
            )
        if ids != own_ids:
            log.warning("%s: by itself it cuts texts differently from %s, as which transformers reads it", path, name)
            return


def refuse_chance(path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a text always becomes the same tokens.

    Raises:
        BadFile: merges are left out by chance, as in training.
    """
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        dropout = getattr(tokenizer.backend_tokenizer.model, "dropout", None)
        if dropout:
            raise BadFile(path, f"dropout: expected null, so that a text is always the same tokens, got {dropout:g}")


def beginning(text: str) -> dict[str, Any]:
    """The entries of a tokenizer.json before its vocabulary, which takes up to half a second to parse."""
    decoder, entries = json.JSONDecoder(), dict[str, Any]()
    at = _after(BEFORE_KEY, text, 0)
    while text[at] != "}":
        key, at = decoder.raw_decode(text, at)
        if key == VOCABULARY:
            break
        entries[key], at = decoder.raw_decode(text, _after(BEFORE_VALUE, text, at))
        at = _after(BEFORE_KEY, text, at)
    return entries


def _after(what: re.Pattern[str], text: str, at: int) -> int:
    found = what.match(text, at)
    return at if found is None else found.end()


def _has_parts_of(described: dict[str, Any], backend: Tokenizer) -> bool:
    """Whether a tokenizer is built as its file says."""
    parts = (getattr(backend, part) for part in PARTS)
    return [described.get(part) for part in PARTS] == [
        None if part is None else json.loads(part.__getstate__()) for part in parts
    ]


def _tokenized(alone: Tokenizer, made: Tokenizer) -> Iterator[tuple[str, list[int] | None, list[int] | None]]:
    """The samples with the tokens that both make of them; None where one fails."""
    for text in SAMPLES:
        yield text, _ids(made, text), _ids(alone, text)


def _ids(tokenizer: Tokenizer, text: str) -> list[int] | None:
    try:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    except Exception:  # a vocabulary without a token for what is unknown
        return None
    return ids


def _is_kept(text: str, ids: list[int] | None, decode: Callable[[Sequence[int]], str]) -> bool:
    """Whether a text comes out of its tokens again, but for white space."""
    return ids is not None and "".join(decode(ids).split()) == "".join(text.split())

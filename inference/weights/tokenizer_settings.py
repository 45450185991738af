"""Names the setting of a tokenizer for which transformers can make none of a folder's files.

Its own messages name Python's types, and often no setting. So these are asked only once it has failed.
"""

from collections.abc import Callable, Mapping
from typing import Any


def _is_token(value: Any) -> bool:
    return isinstance(value, str) or (_is_described(value) and "__type" in value)


def _is_described(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("content"), str)


def _are_tokens(value: Any) -> bool:
    return isinstance(value, (list, dict)) and all(map(_is_token, value.values() if isinstance(value, dict) else value))


def _are_numbered(value: Any) -> bool:
    return isinstance(value, dict) and all(key.isdecimal() and _is_described(token) for key, token in value.items())


def _are_templates(value: Any) -> bool:
    if not isinstance(value, list):
        return isinstance(value, str)
    return all(isinstance(named, dict) and {"name", "template"} <= named.keys() for named in value)


ADDED_TOKENS = "added_tokens.json"
"""The file of older models with the ids of added tokens by their texts."""
SPECIAL_TOKENS = "special_tokens_map.json"
"""The file of older models with what tokens are for; it may describe them without their type."""
_SENTENCEPIECE = ("a SentencePiece model", "sentencepiece")
OTHER_TOKENIZERS: Mapping[str, tuple[str, str]] = {
    "tiktoken.model": ("tiktoken's ranks", "tiktoken"),
    "*.tiktoken": ("tiktoken's ranks", "tiktoken"),
    "tekken.json": ("Mistral's own tokenizer", "mistral-common"),
    "tokenizer.model": _SENTENCEPIECE,
    "spiece.model": _SENTENCEPIECE,
    "sentencepiece.bpe.model": _SENTENCEPIECE,
}
"""Other files that models come with: what they are, and the package with which transformers reads them."""
TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
EXPECTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(TOKENS, (_is_token, "a token's text, or an AddedToken with its type")),
    **dict.fromkeys(("extra_special_tokens", "additional_special_tokens"), (_are_tokens, "a list of tokens' texts")),
    "added_tokens_decoder": (_are_numbered, "an object with each token under its id"),
    "model_max_length": (lambda value: type(value) in (int, float), "a number of tokens"),
    "tokenizer_class": (lambda value: isinstance(value, str), "the name of a class"),
    "chat_template": (_are_templates, "a text, or a list of them with their names"),
    "padding_side": (("left", "right").__contains__, "left or right"),
    "truncation_side": (("left", "right").__contains__, "left or right"),
}
"""Settings, with what each has to be if it is not null."""
NEVER_NULL = ("added_tokens_decoder", "padding_side", "truncation_side")


def misfit(settings: Mapping[str, Any], file: str = "tokenizer_config.json") -> str | None:
    """The first setting in a file that is not what it has to be, and what was expected; None if all are."""
    if file == ADDED_TOKENS:
        unfit = ((name, value) for name, value in settings.items() if type(value) is not int)
        return next((f"{name}: expected the token's id, got {value!r}" for name, value in unfit), None)
    if file == SPECIAL_TOKENS:
        settings = {name: value for name, value in settings.items() if not _is_described(value)}
    for name, (is_right, expected) in EXPECTED.items():
        value = settings.get(name)
        is_null = value is None and not (name in NEVER_NULL and name in settings)
        if not is_null and not is_right(value):
            return f"{name}: expected {expected}, got {value!r}"
    return None

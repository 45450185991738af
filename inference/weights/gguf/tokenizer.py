"""Makes the tokenizer that a GGUF file describes, from metadata that `GGUFFile` has checked.

A file has the vocabulary, its merges or scores, and a few flags. How texts are cut before that has only a name, see
`splits`. Vocabularies of SentencePiece are built as transformers builds them for Llama, or for Gemma.

Invariant: no token has an id that the vocabulary in the file does not have.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from inference.text.token_bytes import BYTE_OF_CHARACTER
from inference.weights.gguf.file import BadGGUF, GGUFFile
from inference.weights.gguf.splits import SPLITS, Split
from inference.weights.gguf.unserved import ADVICE
from inference.weights.weight_checks import reason

log = logging.getLogger("engine")

MODELS = ("gpt2", "llama", "gemma4")
"""The kinds of vocabulary: byte-level BPE, SentencePiece's, and Gemma 4's, which is SentencePiece's with merges."""
DESCRIBED = {
    "ggml.model": "tokenizer_type",
    "ggml.tokens": "tokens",
    "ggml.scores": "scores",
    "ggml.token_type": "token_type",
    "ggml.merges": "merges",
    "ggml.add_space_prefix": "add_prefix_space",
}
"""Metadata about a tokenizer, and the names that transformers' builders have for it."""
SETTINGS = {
    "ggml.add_bos_token": "add_bos_token",
    "ggml.add_eos_token": "add_eos_token",
}
"""The same of what a text begins and ends with."""
FLAGS = ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_space_prefix")
SPECIAL_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
UNUSED = ("padding", "unknown")
"""Special tokens whose ids are not needed to serve a model; some files have one that is not a token."""
UNSAID = {"llama": {"bos": 1, "eos": 2, "unknown": 0}}
"""Special tokens of a kind of vocabulary whose file does not name them, as llama.cpp has it."""
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
"""Types of tokens that are found in a text as they are written, before anything is cut or merged."""
SPECIAL = (UNKNOWN, CONTROL)
"""Types of tokens that are left out of what is shown."""
ENDS_OF_MESSAGES = ("<|end|>",)
ENDS_OF_TURNS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<|return|>",
    "<|call|>",
    *("<turn|>", "<|tool_response>"),  # of Gemma 4
    *("<|calls|>", "<|flush|>"),  # of Solar Open
    "[e~[",  # of MiniMax
)
ENDS_OF_TEXTS = ("<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<EOT>", "_<EOT>", "[EOT]")
ENDS_OF_INFILLS = (
    *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
)
"""What models for code write where they have filled a gap: padding, or the beginning of another repository or file."""
ENDS = frozenset((*ENDS_OF_MESSAGES, *ENDS_OF_TURNS, *ENDS_OF_TEXTS, *ENDS_OF_INFILLS))
"""Tokens that end an answer in every file, which often names one end of several: that of a chat, or that of a text.

They are control tokens, whatever type the file gives them, as for llama.cpp.
"""
OF_SEVERAL_MESSAGES = ({"<|return|>", "<|call|>"}, {"<|calls|>", "<|flush|>"})
"""A vocabulary with one of these pairs is gpt-oss's or Solar Open's, whose answers are of several messages."""
ENDS_OF_TYPE_CONTROL = ("</s>", "<eos>", "[EOS]")
"""Ends too, but only where they are control tokens: in many vocabularies they may be part of a text."""
KEEP_SPACE = ("<unk>", "<s>", "<|endoftext|>")
"""Phi-3's control tokens after which white space is kept."""


def make_tokenizer(file: GGUFFile) -> PreTrainedTokenizerFast:
    """The tokenizer, with the chat template if the file has one.

    Raises:
        BadGGUF: the file has no vocabulary, or one of a kind that is not supported.
    """
    tokens = _vocabulary(file)
    described = _renamed(file, DESCRIBED) | {"tokens": tokens}
    settings = _renamed(file, SETTINGS) | {"chat_template": _chat_template(file)}
    is_byte_level = described["tokenizer_type"] == "gpt2"
    split = _split(file) if is_byte_level else None
    try:
        backend = _sentencepiece(file.architecture, described) if split is None else _byte_level(described, split)
        takes_space = _is_phi3(file)
        backend.add_special_tokens(_of_types(described, SPECIAL, takes_space))
        backend.add_tokens(_of_types(described, (USER_DEFINED,), takes_space))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # merges that name no token; a panic in tokenizers is not an Exception
        raise BadGGUF(file.path, f"no tokenizer can be made of its vocabulary: {reason(error)}") from error
    for name, key in SPECIAL_TOKENS.items():
        settings[name] = _special_token(file, tokens, key)
    _refuse_unnamed(file, settings)
    if described["tokenizer_type"] == "gemma4":
        settings["add_bos_token"] = True  # whatever the file says, as in llama.cpp: some say otherwise by mistake
    settings.setdefault("add_bos_token", split is None or split.begins_with_bos)  # as llama.cpp does
    with _not_copied(backend):
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=backend, clean_up_tokenization_spaces=False, **settings
        )
    return tokenizer


@contextmanager
def _not_copied(backend: Tokenizer) -> Iterator[None]:
    """Let transformers keep this tokenizer itself. It would copy it by way of JSON, which takes 0.05 s."""
    backend.__deepcopy__ = lambda memo: backend  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del backend.__deepcopy__  # type: ignore[attr-defined]


def ends_by_name(file: GGUFFile) -> list[int]:
    """The ids of tokens that end an answer by their texts, whatever else the file says."""
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    types = file.metadata.get("tokenizer.ggml.token_type", ())
    if not isinstance(tokens, list):
        return []
    controls = {token for token, type in zip(tokens, types, strict=False) if type == CONTROL}
    ends = ENDS | (controls & set(ENDS_OF_TYPE_CONTROL))
    if any(set(tokens) >= pair for pair in OF_SEVERAL_MESSAGES):
        ends -= set(ENDS_OF_MESSAGES)
    return [token_id for token_id, token in enumerate(tokens) if token in ends]


# --- The two kinds of vocabulary --------------------------------------------------------------------------------------


def _split(file: GGUFFile) -> Split:
    name = file.get("tokenizer.ggml.pre", str, "default")
    if name == "default":
        log.warning("%s does not say how its tokenizer cuts texts; they are cut as llama.cpp does then", file.path)
    if name not in SPLITS:
        raise BadGGUF(
            file.path,
            f"its tokenizer cuts texts by a rule that this server does not know, tokenizer.ggml.pre {name!r}; expected "
            f"one of {', '.join(sorted(SPLITS))}. {ADVICE}",
        )
    return SPLITS[name]


def _byte_level(described: dict[str, Any], split: Split) -> Tokenizer:
    # Special tokens keep their spelling, whatever characters they have; all other tokens are spelled in bytes.
    spelled = [
        token if type in (*SPECIAL, USER_DEFINED) or set(token) <= BYTE_OF_CHARACTER.keys() else _in_bytes(token)
        for token, type in zip(described["tokens"], _types(described), strict=True)
    ]
    vocabulary = {token: token_id for token_id, token in enumerate(spelled)}
    backend = Tokenizer(models.BPE(vocabulary, _merges(described), ignore_merges=split.takes_whole_words))
    backend.pre_tokenizer = split.pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(architecture: str, described: dict[str, Any]) -> Tokenizer:
    """As transformers has it, but without tokens of its own; a space before the text as the file says."""
    is_gemma = architecture.startswith("gemma")
    merges = _merges(described, by_place=is_gemma)
    backend = Tokenizer(models.BPE(_numbered(described), merges, fuse_unk=True, byte_fallback=True))
    # Each text between special tokens begins with a space: what llama.cpp does, and what these models were trained on.
    has_space = described["tokenizer_type"] != "gemma4" and described.get("add_prefix_space", not is_gemma)
    begins = [normalizers.Prepend("▁")] if has_space else []
    backend.normalizer = normalizers.Sequence([*begins, normalizers.Replace(" ", "▁")])
    ends = [decoders.Strip(" ", left=1)] if begins else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *ends])
    return backend


def _numbered(described: dict[str, Any]) -> dict[str, int]:
    return {token: token_id for token_id, token in enumerate(described["tokens"])}


def _merges(described: dict[str, Any], by_place: bool = False) -> list[tuple[str, str]]:
    """The merges in the file, or those that the scores of its tokens say: each way to make a token of two others.

    These are the ones of transformers' `generate_merges`, which takes twice as long. Longer first parts come first.

    Args:
        by_place: the first tokens are merged first, whatever their scores. Gemma's say something else.
    """
    if "merges" in described:
        return [_pair(merge) for merge in described["merges"]]
    tokens = described["tokens"]
    known = set(tokens)
    made = [
        (first, second)
        for token in tokens
        for end in range(len(token) - 1, 0, -1)
        if (first := token[:end]) in known and (second := token[end:]) in known
    ]
    if not by_place:
        scores = dict(zip(tokens, described["scores"], strict=True))
        made.sort(key=lambda pair: (scores[pair[0] + pair[1]], len(pair[0]), len(pair[1])), reverse=True)
    return made


def _pair(merge: str) -> tuple[str, str]:
    first, _, second = merge.partition(" ")
    return first, second


def _in_bytes(token: str) -> str:
    return "".join(CHARACTER_OF_BYTE[byte] for byte in token.encode())


def _of_types(described: dict[str, Any], wanted: Sequence[int], takes_space: bool) -> list[AddedToken]:
    """The tokens of some types. `takes_space`: those that swallow the white space after them do."""
    typed = zip(described["tokens"], _types(described), strict=True)
    return [
        AddedToken(token, normalized=False, special=type in SPECIAL, rstrip=takes_space and token not in KEEP_SPACE)
        for token, type in typed
        if type in wanted
    ]


def _types(described: dict[str, Any]) -> Sequence[int]:
    types = described.get("token_type") or [1] * len(described["tokens"])
    return [CONTROL if token in ENDS else type for token, type in zip(described["tokens"], types, strict=True)]


def _is_phi3(file: GGUFFile) -> bool:
    """Whether white space after a control token belongs to it. No file says so; llama.cpp goes by the model's name."""
    name = str(file.metadata.get("general.name", "")).lower()
    return "phi-3" in name or "phi3" in name or _has_vocabulary_of_phi3(file)


def _has_vocabulary_of_phi3(file: GGUFFile) -> bool:
    """Whether it is Phi-3's (and 3.5's) own, also if a model that was made of it has another name."""
    return file.architecture in ("phi3", "phimoe") and file.metadata.get("tokenizer.ggml.model") == "llama"


CHARACTER_OF_BYTE = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}


# --- What the file says -----------------------------------------------------------------------------------------------


def _vocabulary(file: GGUFFile) -> list[str]:
    model = file.get("tokenizer.ggml.model", str)
    if model not in MODELS:
        raise BadGGUF(file.path, f"its tokenizer is of the kind {model!r}; expected {', '.join(MODELS)}. {ADVICE}")
    tokens: list[str] = file.get("tokenizer.ggml.tokens", list)
    tokens = [token or f"[EMPTY_{token_id}]" for token_id, token in enumerate(tokens)]  # as llama.cpp calls them
    needed = "scores" if model == "llama" else "merges"
    if not {"tokenizer.ggml.merges", f"tokenizer.ggml.{needed}"} & file.metadata.keys():
        raise BadGGUF(file.path, f"expected tokenizer.ggml.{needed}, without which no text becomes tokens")
    if (key := "tokenizer.ggml.merges") in file.metadata and not all(" " in merge for merge in file.get(key, list)):
        raise BadGGUF(file.path, f"{key} has an entry without a space; expected the two tokens that each merge joins")
    rows = file.tensors["token_embd.weight"].shape[0]
    if len(tokens) > rows:
        raise BadGGUF(file.path, f"its tokenizer has {len(tokens)} tokens, but its embedding only {rows} rows")
    if len(set(tokens)) < len(tokens):
        raise BadGGUF(file.path, "its tokenizer has the same token twice")
    for name in ("scores", "token_type"):
        if (key := f"tokenizer.ggml.{name}") in file.metadata:
            _check_numbers(file, key, len(tokens))
    for flag in FLAGS:
        if flag in file.metadata:
            file.get(flag, bool)
    return tokens


def _check_numbers(file: GGUFFile, key: str, count: int) -> None:
    """See that there is a number for each token."""
    numbers = file.metadata[key]
    if not isinstance(numbers, np.ndarray):
        raise BadGGUF(file.path, f"expected {key} to be a list of numbers, got {str(numbers)[:40]!r}")
    if len(numbers) != count:
        raise BadGGUF(file.path, f"{key} has {len(numbers)} entries; expected {count}")
    if not np.isfinite(numbers).all():
        raise BadGGUF(file.path, f"{key} has entries that are NaN or infinite; expected numbers only")


def _renamed(file: GGUFFile, names: Mapping[str, str]) -> dict[str, Any]:
    """Metadata under other names, numbers as plain Python ones."""
    keys = {f"tokenizer.{key}": name for key, name in names.items()}
    found = {name: file.metadata[key] for key, name in keys.items() if key in file.metadata}
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in found.items()}


def _chat_template(file: GGUFFile) -> str | dict[str, str] | None:
    """The template, or all of them by their names where there are others next to it, one for tools for example."""
    key = "tokenizer.chat_template"
    named = {name.removeprefix(f"{key}."): file.get(name, str) for name in file.metadata if name.startswith(f"{key}.")}
    if key in file.metadata:
        named["default"] = file.get(key, str)
    return named if named.keys() - {"default"} else named.get("default")


def _special_token(file: GGUFFile, tokens: list[str], name: str) -> str | None:
    token_id = file.token_id(name)
    if token_id is None:
        token_id = UNSAID.get(file.get("tokenizer.ggml.model", str), {}).get(name, len(tokens))
    elif token_id not in range(len(tokens)) and name not in UNUSED:
        raise BadGGUF(
            file.path, f"tokenizer.ggml.{name}_token_id is {token_id}; expected less than {len(tokens)}, its tokens"
        )
    return tokens[token_id] if token_id in range(len(tokens)) else None


def _refuse_unnamed(file: GGUFFile, settings: Mapping[str, Any]) -> None:
    """See that what the file says to add to each text is a token that it names.

    Raises:
        BadGGUF: it names none. (llama.cpp then adds the token 11, whatever that is.)
    """
    for name in ("bos", "eos"):
        if settings.get(f"add_{name}_token") and settings[f"{name}_token"] is None:
            raise BadGGUF(
                file.path,
                f"tokenizer.ggml.add_{name}_token is true; expected tokenizer.ggml.{name}_token_id to say which token, "
                f"got none. Name it with `gguf-new-metadata --special-token-by-id {name} ID FILE NEW_FILE`.",
            )

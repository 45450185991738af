"""Makes the tokenizer that a GGUF file describes, by transformers' own rules for it.

transformers reads the file itself for that, and believes what it reads; here it gets what `GGUFFile` has checked.
"""

from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer

from inference.weights.gguf import BadGGUF, GGUFFile
from inference.weights.known import reason

MODELS = ("gpt2", "llama")
"""The kinds of vocabulary: byte-level BPE, and SentencePiece's."""
SPECIAL_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def make_tokenizer(file: GGUFFile) -> PreTrainedTokenizerFast:
    """The tokenizer, with the chat template if the file has one.

    Raises:
        BadGGUF: the file has no vocabulary, or one of a kind that is not supported.
    """
    tokens = _vocabulary(file)
    described = _renamed(file, "tokenizer")
    try:
        backend, _ = convert_gguf_tokenizer(file.architecture, described)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # merges that name no token; a panic in tokenizers is no Exception
        raise BadGGUF(file.path, f"no tokenizer can be made of its vocabulary: {reason(error)}") from error
    settings = _renamed(file, "tokenizer_config")
    if described["tokenizer_type"] == "llama":
        settings.setdefault("add_bos_token", True)  # as llama.cpp does for files that do not say
    for name, key in SPECIAL_TOKENS.items():
        settings[name] = _special_token(file, tokens, f"tokenizer.ggml.{key}_token_id")
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **settings
    )
    return tokenizer


def _vocabulary(file: GGUFFile) -> list[str]:
    model = file.get("tokenizer.ggml.model", str)
    if model not in MODELS:
        raise BadGGUF(file.path, f"its tokenizer is of the kind {model!r}; expected {' or '.join(MODELS)}")
    tokens: list[str] = file.get("tokenizer.ggml.tokens", list)
    needed = "merges" if model == "gpt2" else "scores"
    if not {"tokenizer.ggml.merges", f"tokenizer.ggml.{needed}"} & file.metadata.keys():
        raise BadGGUF(file.path, f"expected tokenizer.ggml.{needed}, without which no text becomes tokens")
    rows = file.tensors["token_embd.weight"].shape[0]
    if len(tokens) > rows:
        raise BadGGUF(file.path, f"its tokenizer has {len(tokens)} tokens, but its embedding only {rows} rows")
    if len(set(tokens)) < len(tokens):
        raise BadGGUF(file.path, "its tokenizer has the same token twice")
    for name in ("scores", "token_type"):
        count = len(file.metadata.get(f"tokenizer.ggml.{name}", tokens))
        if count != len(tokens):
            raise BadGGUF(file.path, f"tokenizer.ggml.{name} has {count} entries; expected {len(tokens)}")
    return tokens


def _renamed(file: GGUFFile, group: str) -> dict[str, Any]:
    """Metadata under the names that transformers' builders know, numbers as plain Python ones."""
    names = {f"tokenizer.{key}": name for key, name in GGUF_TOKENIZER_MAPPING[group].items()}
    found = {name: file.metadata[key] for key, name in names.items() if key in file.metadata}
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in found.items()}


def _special_token(file: GGUFFile, tokens: list[str], key: str) -> str | None:
    if key not in file.metadata:
        return None
    token_id: int = file.get(key, int)
    if not 0 <= token_id < len(tokens):
        raise BadGGUF(file.path, f"{key} is {token_id}; expected less than {len(tokens)}")
    return tokens[token_id]

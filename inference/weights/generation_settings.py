"""Reads the settings for generation that come with a model: the tokens that end a text, and defaults for sampling."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from inference.scheduling.bans import ModelBans
from inference.weights.safetensors_header import BadFile
from interface.requests import BANNED, SamplingParams

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""The settings of a generation config that are also parameters of a request."""
SUPPRESSED = "suppress_tokens"
"""The setting that names tokens that are never chosen, such as the marks of images in Gemma 4."""
SUPPRESSED_FIRST = "begin_suppress_tokens"
BAD_WORDS = "bad_words_ids"
NO_REPEAT = "no_repeat_ngram_size"
MINIMA = ("min_new_tokens", "min_length")
BANS = (SUPPRESSED, SUPPRESSED_FIRST, BAD_WORDS, NO_REPEAT, *MINIMA)
STOPS = "stop_strings"
BIAS = "sequence_bias"

NOT_APPLIED: Mapping[str, Any] = {
    **dict.fromkeys(("num_beams", "num_beam_groups"), 1),
    **dict.fromkeys(("diversity_penalty", "encoder_no_repeat_ngram_size"), 0),
    "encoder_repetition_penalty": 1.0,
    "guidance_scale": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    **dict.fromkeys(("xtc_probability", "mirostat"), 0),  # of GGUF files, as are the next two
    "penalty_last_n": -1,  # a repetition penalty is for the whole text
    "sequence": None,
    "token_healing": False,
    **dict.fromkeys(("force_words_ids", "constraints")),
    **dict.fromkeys(
        ("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty", "penalty_alpha")
    ),
    **dict.fromkeys(("dola_layers", "watermarking_config", "top_h")),
    **dict.fromkeys(("max_new_tokens", "max_length", "max_time")),  # requests say how long an answer may be
    "num_return_sequences": 1,
    "do_sample": True,
}
"""Settings of a generation config that this server does not support, each with the value that has no effect."""


def in_model_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json says about generating. transformers goes by that where there is no generation_config.json."""
    text = settings.get("text_config")
    merged = {**settings, **text} if isinstance(text, dict) else settings
    return {name: value for name, value in merged.items() if name in (*SAMPLING, *BANS, STOPS, BIAS, *NOT_APPLIED)}


def check_cache(path: Path, settings: Mapping[str, Any]) -> None:
    """Check `use_cache`, which answers do not depend on: with some other values transformers writes different texts.

    Raises:
        BadFile: it is something else.
    """
    if (value := settings.get("use_cache")) not in (None, True, False) or type(value) is int:
        raise BadFile(path, f"use_cache: expected true, false or null, got {value!r}")


def find_not_applied(settings: Mapping[str, Any]) -> list[str]:
    """Return the settings of a generation config that would have an effect here, if it were supported."""
    given = {name: settings[name] for name in NOT_APPLIED if settings.get(name) not in (None, [], {})}
    found = [f"{name} {value}"[:60] for name, value in given.items() if value != NOT_APPLIED[name]]
    of_several = [ids for ids, _ in _biased(settings.get(BIAS)) if len(ids) != 1]
    return [*found, f"{BIAS} of several tokens, {of_several[0]}"[:60]] if of_several else found


def find_stop_strings(path: Path, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the texts at which every answer ends.

    Raises:
        BadFile: the file names something that is not text.
    """
    given = settings.get(STOPS) or []
    stops = given if isinstance(given, list) else [given]
    if not all(isinstance(stop, str) and stop for stop in stops):
        raise BadFile(path, f"{STOPS}: expected a text or a list of texts, got {given!r}")
    return tuple(stops)


def find_biases(path: Path, settings: Mapping[str, Any]) -> dict[int, float]:
    """Return what is added to the logits of single tokens.

    Raises:
        BadFile: the file has something else than lists of a token's ids and a number.
    """
    pairs = settings.get(BIAS) or []
    biased = _biased(pairs)
    if not isinstance(pairs, list) or len(biased) != len(pairs):
        raise BadFile(path, f"{BIAS}: expected pairs of a list of tokens' ids and a number, got {pairs!r}")
    return {ids[0]: max(bias, BANNED) for ids, bias in biased if len(ids) == 1}


def _biased(pairs: Any) -> list[tuple[list[int], float]]:
    """Those of the pairs that are of tokens and a number."""
    return [(pair[0], float(pair[1])) for pair in (pairs if isinstance(pairs, list) else []) if _is_bias(pair)]


def _is_bias(pair: Any) -> bool:
    match pair:
        case [[_, *_] as ids, int() | float() as bias]:
            return all(type(token_id) is int for token_id in ids) and bias == bias and bias < math.inf
    return False


def find_eos_ids(
    sources: Sequence[tuple[Path, Mapping[str, Any]]],
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig | None = None,
) -> frozenset[int]:
    """The tokens that end a text: all that the files and the tokenizer name.

    In many checkpoints the files name different tokens (a base model's in one, a chat model's in the other), and all of
    them count. transformers' own defaults, which are one model's, do not, unless no file names a token.

    Args:
        sources: files, and the content of each.
        config: has the defaults.

    Raises:
        BadFile: a file names something that cannot be a token.
    """
    ids = {token_id for path, settings in sources for token_id in _eos_ids(path, settings, tokenizer)}
    if tokenizer.eos_token_id is not None:
        ids.add(int(tokenizer.eos_token_id))
    if not ids and config is not None:
        default = getattr(config.get_text_config(), "eos_token_id", None)
        ids.update(default if isinstance(default, list) else [] if default is None else [default])
    return frozenset(_of_harmony(ids, tokenizer.added_tokens_encoder))


def _of_harmony(ids: set[int], added: Mapping[str, int]) -> set[int]:
    """In gpt-oss' format <|end|> ends a message within an answer, and a call ends the answer; not all files say so."""
    if not added.keys() >= {"<|end|>", "<|return|>", "<|call|>"}:
        return ids
    return ids - {added["<|end|>"]} | {added["<|return|>"], added["<|call|>"]}


def _eos_ids(path: Path, settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    tokens = settings.get("eos_token_id", settings.get("eos_token"))
    text_config = settings.get("text_config")
    if tokens is None and isinstance(text_config, dict):
        tokens = text_config.get("eos_token_id")
    for token in tokens if isinstance(tokens, list) else [tokens]:
        text = token.get("content") if isinstance(token, dict) else token  # an added token, spelled out
        if token is None:
            continue
        if isinstance(text, str):
            yield _token_id(path, text, tokenizer)
        elif type(token) is int:
            yield token
        else:
            raise BadFile(path, f"eos_token_id: expected a token's id, its text, or a list of them, got {token!r}")


def _token_id(path: Path, token: str, tokenizer: PreTrainedTokenizerBase) -> int:
    token_id = tokenizer.get_vocab().get(token)
    if token_id is None:
        raise BadFile(path, f"eos_token_id: the tokenizer has no token {token!r}")
    return token_id


def find_suppressed(
    path: Path,
    settings: Mapping[str, Any],
    eos_ids: Collection[int] = (),
    names: Mapping[str, str] = MappingProxyType({}),
) -> frozenset[int]:
    """Return the tokens that are never chosen, whatever a request says.

    As in transformers, a token that ends the text does not count as a bad word.

    Args:
        names: what the file calls settings, if it has other names for them.

    Raises:
        BadFile: the file names something that is not a token's id.
    """
    words = {word[0] for word in _bad_words(path, settings) if len(word) == 1}
    name = names.get(SUPPRESSED, SUPPRESSED)
    return frozenset(_token_ids(path, name, settings.get(SUPPRESSED))) | (words - set(eos_ids))


def find_bans(path: Path, settings: Mapping[str, Any]) -> ModelBans:
    """Return what a text must not begin with, which tokens must not follow others, and how many must not come again.

    Raises:
        BadFile: the file names something that is not a token's id, or no number of tokens.
    """
    first = _token_ids(path, SUPPRESSED_FIRST, settings.get(SUPPRESSED_FIRST))
    bans = ModelBans.of(first, (word for word in _bad_words(path, settings) if len(word) > 1))
    new, whole = (_tokens(path, name, settings) for name in MINIMA)
    return replace(bans, no_repeat=_tokens(path, NO_REPEAT, settings), min_new_tokens=new, min_length=whole)


def _tokens(path: Path, name: str, settings: Mapping[str, Any]) -> int:
    tokens = settings.get(name) or 0
    if type(tokens) is not int or tokens < 0:
        raise BadFile(path, f"{name}: expected a number of tokens, or 0 for none, got {tokens!r}")
    return tokens


def _bad_words(path: Path, settings: Mapping[str, Any]) -> list[tuple[int, ...]]:
    words = settings.get(BAD_WORDS) or ()
    if not isinstance(words, Sequence) or isinstance(words, str):
        raise BadFile(path, f"{BAD_WORDS}: expected a list of lists of tokens' ids, got {words!r}")
    return [word for ids in words if (word := tuple(_token_ids(path, BAD_WORDS, ids)))]


def _token_ids(path: Path, name: str, token_ids: Any) -> Sequence[int]:
    token_ids = () if token_ids is None else token_ids
    if not isinstance(token_ids, Sequence) or not all(type(token_id) is int for token_id in token_ids):
        raise BadFile(path, f"{name}: expected a list of tokens' ids, got {token_ids!r}")
    return token_ids


def find_sampling_defaults(path: Path, settings: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    """Return the sampling parameters of a generation config, checked as those of a request are.

    Args:
        names: what the file calls settings, if it has other names for them.

    Raises:
        BadFile: one is out of range.
    """
    defaults = {name: settings[name] for name in SAMPLING if settings.get(name) is not None}
    if defaults.get("top_k") == -1:  # "all tokens", as vLLM writes it
        defaults["top_k"] = 0
    defaults = {
        name: value if name == "top_k" or type(value) is not int else float(value) for name, value in defaults.items()
    }
    try:
        SamplingParams(**defaults)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise BadFile(
            path,
            f"{names.get(name, name)}: {first['msg'][0].lower()}{first['msg'][1:]}, got {defaults[name]!r}. "
            f"ENGINE_GENERATION_CONFIG=off ignores what it says about sampling.",
        ) from None
    return defaults

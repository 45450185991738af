"""Checks the tokenizer of a checkpoint in a folder: its files, and what transformers makes of them.

Where transformers can make none, its errors often name neither a file nor a setting; those are found here.
"""

from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from inference.text.detokenizer import is_rewritten
from inference.text.token_bytes import BYTE
from inference.weights.safetensors_header import BadFile, read_json, refuse_bytes, refuse_pointer
from inference.weights.tokenizer_class import refuse_chance, refuse_losing
from inference.weights.tokenizer_settings import ADDED_TOKENS, OTHER_TOKENIZERS, SPECIAL_TOKENS, misfit
from inference.weights.weight_checks import reason

MORE_TEMPLATES = "additional_chat_templates"
TEMPLATE_OF_PROCESSOR = "chat_template.json"
"""Where older models that also see or hear have their template: transformers reads it for those senses' processor."""
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_SETTINGS = (TOKENIZER_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS)
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""The files from which a tokenizer can be made without other packages."""
TOKENIZER_FILES = (
    "*.jinja",
    TEMPLATE_OF_PROCESSOR,
    *TOKENIZER_SETTINGS,
    *(name for names in TOKENIZERS for name in names),
)
"""All files that are read for a tokenizer and its chat template."""
WITHOUT_A_CLASS = "instantiate the backend tokenizer"
"""What transformers says of files of which it makes a tokenizer of no class."""
SAMPLED_TOKENS = 500
"""The size of the sample of a vocabulary on which a tokenizer is tried, which takes some milliseconds."""


def checked_tokenizer(folder: Path, make: Callable[[], PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    """Return the tokenizer that `make` makes of a folder with transformers.

    Raises:
        BadFile: the folder has no tokenizer, its files are damaged, or no answers can be shown with it.
    """
    path = _find_tokenizer(folder)
    for name in TOKENIZER_SETTINGS:
        if (folder / name).is_file():
            read_json(folder / name)
    for template in (*folder.glob("*.jinja"), *folder.glob(f"{MORE_TEMPLATES}/*.jinja")):
        refuse_bytes(template)
    try:
        tokenizer = make()
        tokenizer(["Hello"])
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in tokenizers is not an Exception
        if path is not None:
            read_json(path)  # only now, as it takes long: where it is damaged, this says in which line
        _refuse_settings(folder, error)
        broken = _broken_tokenizer(folder)
        named = read_json(broken).get("tokenizer_class") if broken.name == TOKENIZER_CONFIG else None
        kind = f", as tokenizer_class {named}" if named else ""
        raise BadFile(broken, f"no tokenizer can be made of it{kind}: {reason(error)}") from error
    _complete_template(folder, tokenizer)
    if not tokenizer.vocab_size:
        raise BadFile(folder / "tokenizer.json", "the tokenizer has no tokens; expected one with some")
    _refuse_rewriting(folder, tokenizer)
    if path is not None:
        refuse_losing(path, tokenizer)
        refuse_chance(path, tokenizer)
    return tokenizer


def _find_tokenizer(folder: Path) -> Path | None:
    """Return the tokenizer.json; None if the tokenizer is in other files."""
    for names in TOKENIZERS:
        paths = [folder / name for name in names]
        if all(path.is_file() for path in paths):
            for path in paths:
                refuse_pointer(path)
            return paths[0] if len(paths) == 1 else None
    made = "write one with transformers' AutoTokenizer.from_pretrained(…).save_pretrained(…)"
    for pattern, (kind, package) in OTHER_TOKENIZERS.items():
        if found := sorted(folder.glob(pattern)):
            raise BadFile(
                found[0],
                f"expected a tokenizer.json; from {kind} alone no tokenizer is made here. Where the package "
                f"{package} is installed, {made}",
            )
    raise BadFile(folder, f"expected a tokenizer.json next to config.json, found none; {made}")


def _refuse_settings(folder: Path, error: BaseException) -> None:
    """See that it was not for the tokenizer's settings that none could be made.

    Raises:
        BadFile: its class is among the model's files, none is named that reads them, or a setting is unusable.
    """
    config = folder / TOKENIZER_CONFIG
    described = read_json(config) if config.is_file() else {}
    named = described.get("tokenizer_class")
    if "trust_remote_code" in str(error):
        raise BadFile(
            config,
            f"tokenizer_class {named!r} is code that comes with the model, which is not run (trust_remote_code). "
            f"Expected a tokenizer that transformers has; a GGUF file of the model needs no such code",
        ) from error
    if not (folder / "tokenizer.json").is_file() and (named is None or WITHOUT_A_CLASS in str(error)):
        raise BadFile(
            folder,
            f"of vocab.json and merges.txt a tokenizer is made only where tokenizer_config.json names its class "
            f"(tokenizer_class, GPT2Tokenizer for one), got {named!r}; expected that, or a tokenizer.json",
        ) from error
    for name in TOKENIZER_SETTINGS:
        path = folder / name
        if path.is_file() and (unusable := misfit(read_json(path), name)) is not None:
            raise BadFile(path, unusable) from error


def _broken_tokenizer(folder: Path) -> Path:
    """The file that makes a tokenizer fail: the tokenizer itself, or the configuration of one that is sound."""
    path, config = folder / "tokenizer.json", folder / TOKENIZER_CONFIG
    if not path.is_file():
        return folder
    try:
        Tokenizer.from_file(str(path)).encode("Hello")
    except BaseException:
        return path
    return config if config.is_file() else path


def _complete_template(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Take the chat template of the processor where the tokenizer has none, and see that it is a text."""
    path = folder / TEMPLATE_OF_PROCESSOR
    if tokenizer.chat_template is None and path.is_file():
        tokenizer.chat_template = read_json(path).get("chat_template")
    else:
        path = folder / TOKENIZER_CONFIG
    if (template := tokenizer.chat_template) is None:
        return
    for text in template.values() if isinstance(template, dict) else [template]:
        if not isinstance(text, str):
            raise BadFile(path, f"chat_template: expected a text, or a list of them with their names, got {text!r}")


def _refuse_rewriting(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """See that texts only grow, on a sample of the vocabulary; without bytes, of which any may end a character."""
    sample = list(range(0, len(tokenizer), max(1, len(tokenizer) // SAMPLED_TOKENS)))
    tokens = zip(sample, tokenizer.convert_ids_to_tokens(sample), strict=True)
    texts = [token_id for token_id, token in tokens if token is not None and not BYTE.fullmatch(token)]
    try:
        is_unfit = is_rewritten(
            lambda ids: str(tokenizer.decode(list(ids), True, clean_up_tokenization_spaces=False)), texts
        )
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in tokenizers is not an Exception
        raise BadFile(folder, f"its tokenizer cannot make texts of tokens: {reason(error)}") from error
    if is_unfit:
        raise BadFile(
            folder,
            f"its tokenizer, {type(tokenizer).__name__}, changes what a token says when another follows, so no "
            f"answer could be shown as it is made; expected texts that only grow",
        )

"""The tokenizer of a GGUF file gives the tokens that the model was trained on, or the file is refused."""

import copy
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.tokenization_utils_base import generate_merges

from inference.weights.gguf.source import GGUFSource
from inference.weights.gguf.splits import SPLITS
from inference.weights.gguf.tokenizer import CHARACTER_OF_BYTE, CONTROL, UNKNOWN, USER_DEFINED, _merges, make_tokenizer
from interface.errors import LoadError
from tests.support.gguf_files import write_vocabulary

BYTES = list(CHARACTER_OF_BYTE.values())
PIECES = ["▁", "▁a", "▁▁", "a", "b", "▁ab", "ab", "<0x20>"]


def source(
    folder: Path,
    tokens: list[str],
    types: dict[str, int] | None = None,
    architecture: str = "llama",
    **metadata: Any,
) -> GGUFSource:
    kinds = [(types or {}).get(token, 1) for token in tokens]
    entries = {"tokens": tokens, "token_type": kinds} | metadata
    settings = {_key(name): value for name, value in entries.items()}
    return GGUFSource(write_vocabulary(folder / "model.gguf", len(tokens), settings, architecture), "model.gguf")


def _key(name: str) -> str:
    """The name of an entry in a file."""
    if name.startswith("chat_template"):
        return f"tokenizer.{name.replace('__', '.')}"
    return "general.name" if name == "general_name" else f"tokenizer.ggml.{name}"


def byte_level(folder: Path, *merged: str, types: dict[str, int] | None = None, **metadata: Any) -> GGUFSource:
    """A vocabulary of all bytes, of what `merged` makes of them (`a+b`), and of the special tokens in `types`."""
    merged = merged or ("q+z",)
    tokens = BYTES + [pair.replace("+", "") for pair in merged] + list(types or {})
    merges = [pair.replace("+", " ") for pair in merged]
    return source(folder, tokens, types, model="gpt2", merges=merges, **{"pre": "gpt-2"} | metadata)


def sentencepiece(folder: Path, **metadata: Any) -> GGUFSource:
    tokens = ["<unk>", "<s>", "</s>", *PIECES]
    types = dict.fromkeys(["<s>", "</s>"], CONTROL) | {"<unk>": 2, "<0x20>": 6}
    scores = [-float(number) for number in range(len(tokens))]
    special = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    return source(folder, tokens, types, model="llama", pre="default", scores=scores, **special | metadata)


def made(source: GGUFSource) -> PreTrainedTokenizerFast:
    return make_tokenizer(source.file)


def tokens_of(tokenizer: PreTrainedTokenizerFast, text: str, special: bool = False) -> list[str]:
    token_ids = tokenizer(text, add_special_tokens=special)["input_ids"]
    return [str(tokenizer.convert_ids_to_tokens(token_id)) for token_id in token_ids]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["gpt-2", "olmo"], ["I", "'", "LL", "Ġpay", "Ġ", "Ġ12345", "Ġ((", "ĊĊ"]),
        (["smollm", "starcoder"], ["I", "'", "LL", "Ġpay", "ĠĠ", "1", "2", "3", "4", "5", "Ġ((", "ĊĊ"]),
        (["llama-bpe", "glm4", "dbrx"], ["I", "'LL", "Ġpay", "Ġ", "Ġ", "123", "45", "Ġ((ĊĊ"]),
        (["qwen2", "stablelm2"], ["I", "'LL", "Ġpay", "Ġ", "Ġ", "1", "2", "3", "4", "5", "Ġ((ĊĊ"]),
        (["deepseek-llm"], ["I", "'", "LL", "Ġpay", "ĠĠ", "12345", "Ġ((", "Ċ", "Ċ"]),
        (["default"], ["I", "'", "LL", "Ġpay", "Ġ", "Ġ", "123", "45", "Ġ", "((", "ĊĊ"]),
        (["seed-coder"], ["I", "'LL", "Ġpay", "Ġ", "Ġ", "1", "2", "3", "4", "5", "Ġ((", "ĊĊ"]),
        (["tiny_aya"], ["I'LL", "Ġpay", "ĠĠ", "12", "345", "Ġ((ĊĊ"]),
        (["exaone-moe"], ["I", "'LL", "Ġpay", "Ġ", "Ġ", "1", "2", "3", "4", "5", "Ġ((Ċ", "Ċ"]),
        (["afmoe"], ["I", "'LL", "Ġpay", "ĠĠ", "12", "345", "Ġ((ĊĊ"]),
        (["youtu"], ["I'LL", "Ġpay", "Ġ", "Ġ", "1", "2", "3", "4", "5", "Ġ((ĊĊ"]),
        (["kimi-k2"], ["I'LL", "Ġpay", "Ġ", "Ġ", "123", "45", "Ġ((ĊĊ"]),
        (["bailingmoe", "bailingmoe2"], ["I", "'LL", "Ġpay", "Ġ", "Ġ", "1", "2", "3", "4", "5", "Ġ((ĊĊ"]),
        (["falcon"], ["I", "'", "LL", "Ġpay", "Ġ", "Ġ", "123", "45", "Ġ", "((", "ĊĊ"]),
        (["laguna"], ["I", "'LL", "Ġpay", "Ġ", "Ġ", "1", "2", "3", "4", "5", "Ġ((", "ĊĊ"]),
        (["superbpe"], ["I'LLĠpayĠĠ", "12", "345", "Ġ((ĊĊ"]),
        (["deepseek-coder"], ["I", "'", "LL", "Ġpay", "ĠĠ", "1", "2", "3", "4", "5", "Ġ((", "Ċ", "Ċ"]),
    ],
)
def test_a_text_is_cut_as_the_file_names_it(names: list[str], words: list[str]) -> None:
    text = "I'LL pay  12345 ((\n\n"
    for name in names:
        cut = [word for word, _ in SPLITS[name].pre_tokenizer().pre_tokenize_str(text)]
        assert (name, cut) == (name, words)


def test_the_rules_that_transformers_knows_are_the_same_here() -> None:
    theirs = {name: (pattern,) for name, pattern in GGUF_PRE_TOKENIZER_SPLITS.items()}
    assert {name: SPLITS[name].patterns for name in theirs} == theirs


def test_every_rule_loses_nothing_of_a_text() -> None:
    text = "Naïve  12345 (x) 你好！\r\n\n\t😀 don't  "
    for name, split in SPLITS.items():
        cut = split.pre_tokenizer().pre_tokenize_str(text)
        places = [place for _, place in cut]
        assert (places[0][0], places[-1][1]) == (0, len(text)), name
        assert all(end >= begin for (_, end), (begin, _) in pairwise(places)), name


def test_a_rule_that_is_not_known_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"by a rule that this server does not know, tokenizer.ggml.pre 'from-mars'"):
        made(byte_level(tmp_path, pre="from-mars"))


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["llama-bpe", "tekken", "glm4", "minicpm5", "youtu"], ["abcd"]), (["gpt-2", "qwen2"], ["ab", "cd"])],
)
def test_a_word_that_is_a_token_is_that_token_where_the_model_was_trained_so(
    names: list[str], expected: list[str], tmp_path: Path
) -> None:
    for name in names:
        file = byte_level(tmp_path, "a+b", "c+d", types={"abcd": 1}, pre=name)
        assert (name, tokens_of(made(file), "abcd")) == (name, expected)


def test_a_special_token_is_one_token_whatever_its_characters(tmp_path: Path) -> None:
    types = {"<｜User｜>": CONTROL, "  ": USER_DEFINED, "<｜end▁of▁sentence｜>": CONTROL}
    tokenizer = made(byte_level(tmp_path, types=types, eos_token_id=259))
    assert tokens_of(tokenizer, "<｜User｜>a  b") == ["<｜User｜>", "a", "  ", "b"]
    assert tokenizer.eos_token == "<｜end▁of▁sentence｜>"
    assert tokenizer.decode(tokenizer("a<｜User｜>  b")["input_ids"], skip_special_tokens=True) == "a  b"


def test_a_token_of_the_type_unknown_is_found_in_a_text_and_not_shown(tmp_path: Path) -> None:
    tokenizer = made(byte_level(tmp_path, types={"<gap>": UNKNOWN}))
    assert tokens_of(tokenizer, "a<gap>b") == ["a", "<gap>", "b"]
    assert tokenizer.decode(tokenizer("a<gap>b")["input_ids"], skip_special_tokens=True) == "ab"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_no_token_has_an_id_beyond_the_vocabulary(kind: str, tmp_path: Path) -> None:
    tokenizer = made(byte_level(tmp_path) if kind == "gpt2" else sentencepiece(tmp_path))
    assert len(tokenizer) == (len(BYTES) + 1 if kind == "gpt2" else 3 + len(PIECES))
    text = "<|endoftext|><s></s><pad><mask><bos>"
    assert max(tokenizer(text)["input_ids"]) < len(tokenizer)


@pytest.mark.parametrize(
    ("pre", "flag", "begins"),
    [("llama-bpe", None, 1), ("llama-bpe", False, 0), ("tekken", None, 1), ("glm4", None, 0), ("gpt-2", None, 0)],
)
def test_a_text_begins_with_bos_where_the_model_expects_it(
    pre: str, flag: bool | None, begins: int, tmp_path: Path
) -> None:
    flags = {} if flag is None else {"add_bos_token": flag}
    file = byte_level(tmp_path, types={"<begin>": CONTROL}, pre=pre, bos_token_id=257, **flags)
    assert tokens_of(made(file), "ab", special=True) == ["<begin>"] * begins + ["a", "b"]


@pytest.mark.parametrize("name", ["bos", "eos"])
@pytest.mark.parametrize("token_id", [None, 2**32 - 1])
def test_a_token_that_is_to_be_added_to_every_text_must_be_named(
    name: str, token_id: int | None, tmp_path: Path
) -> None:
    """Without a name, llama.cpp adds the token 11, and transformers none."""
    entries: dict[str, Any] = {f"add_{name}_token": True} | ({} if token_id is None else {f"{name}_token_id": token_id})
    with pytest.raises(
        LoadError, match=rf"add_{name}_token is true; expected \S*{name}_token_id to say which token, got"
    ):
        made(byte_level(tmp_path, **entries))


@pytest.mark.parametrize("token_id", [2**32 - 1, 5000])
def test_ids_that_are_no_tokens_are_ignored_where_serving_needs_none(token_id: int, tmp_path: Path) -> None:
    file = byte_level(tmp_path, padding_token_id=token_id, unknown_token_id=token_id, eot_token_id=2**32 - 1)
    tokenizer = made(file)
    assert (tokenizer.pad_token, tokenizer.unk_token) == (None, None)
    assert file.settings["eos_token_id"] == []


@pytest.mark.parametrize("name", ["bos", "eos"])
def test_an_id_beyond_the_vocabulary_is_refused_where_a_text_may_have_it(name: str, tmp_path: Path) -> None:
    entries: dict[str, Any] = {f"{name}_token_id": 5000}
    with pytest.raises(LoadError, match=rf"{name}_token_id is 5000; expected less than \d+, its tokens"):
        made(byte_level(tmp_path, **entries))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("ab", ["▁ab"]), (" ", ["▁▁"]), (" ab", ["▁", "▁ab"]), ("a<s>b", ["▁a", "<s>", "▁", "b"])],
)
def test_a_text_of_sentencepiece_begins_with_a_space_of_its_own(text: str, expected: list[str], tmp_path: Path) -> None:
    assert tokens_of(made(sentencepiece(tmp_path)), text) == expected


def test_a_text_of_sentencepiece_begins_as_it_is_where_the_file_says_so(tmp_path: Path) -> None:
    tokenizer = made(sentencepiece(tmp_path, add_space_prefix=False))
    assert tokens_of(tokenizer, "ab a") == ["ab", "▁a"]
    assert tokenizer.decode(tokenizer(" ab")["input_ids"], skip_special_tokens=True) == " ab"


def gemma(folder: Path, *tokens: str) -> PreTrainedTokenizerFast:
    """A tokenizer of Gemma's, in whose files scores fall against the order of the tokens, and runs of spaces have types
    of their own.
    """
    types = {token: USER_DEFINED for token in tokens if token.isspace()} | {"<bos>": CONTROL}
    scores = [float(place) for place in range(1 + len(tokens))]
    settings: dict[str, Any] = {"scores": scores, "add_space_prefix": False, "bos_token_id": 0, "eos_token_id": 0}
    return made(source(folder, ["<bos>", *tokens], types, "gemma3", model="llama", **settings))


def test_several_spaces_are_the_token_that_a_file_of_gemmas_has_for_them(tmp_path: Path) -> None:
    tokenizer = gemma(tmp_path, "\n\n", "  ", "   ", "▁", "a", "▁a", "\n")
    text = "a  a   a a\n\na\n     "
    expected = ["a", "  ", "a", "   ", "a", "▁a", "\n\n", "a", "\n", "   ", "  "]
    assert tokens_of(tokenizer, text) == expected
    assert len(tokenizer) == 8
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_what_comes_first_in_a_file_of_gemmas_is_merged_first(tmp_path: Path) -> None:
    assert tokens_of(gemma(tmp_path, "ab", "bc", "a", "b", "c"), "abc") == ["ab", "c"]
    assert tokens_of(gemma(tmp_path, "bc", "ab", "a", "b", "c"), "abc") == ["a", "bc"]


@pytest.mark.parametrize("by_place", [True, False])
def test_the_merges_of_a_vocabulary_are_those_of_transformers_in_the_same_order(by_place: bool) -> None:
    """Some tokens have the same score, so their order is that of their parts' lengths."""
    tokens = ["".join(letters) for size in (3, 1, 2, 5, 4) for letters in product("abc", repeat=size)]
    scores = [float(-(number % 7)) for number in range(len(tokens))]
    ranks = dict(zip(tokens, range(0, -len(tokens), -1) if by_place else scores, strict=True))
    expected = generate_merges({token: number for number, token in enumerate(tokens)}, ranks)
    assert len(expected) == sum(size * 3 ** (size + 1) for size in range(1, 5))
    assert _merges({"tokens": tokens, "scores": scores}, by_place) == expected


def test_what_ends_a_turn_or_a_text_does_also_if_the_file_names_another_end(tmp_path: Path) -> None:
    types = {"<|endoftext|>": CONTROL, "<|end|>": CONTROL, "<|user|>": CONTROL, "<|im_end|>": 1, "</s>": USER_DEFINED}
    file = byte_level(tmp_path, types=types | {"<eos>": CONTROL}, eos_token_id=257)
    assert set(file.settings["eos_token_id"]) == {257, 258, 260, 262}


def test_what_follows_an_infill_ends_it(tmp_path: Path) -> None:
    """As in Qwen 2.5 Coder's files, by the tokens' texts, and in others by their ids."""
    types = dict.fromkeys(["<|fim_pad|>", "<|file_sep|>", "<|fim_prefix|>", "<padding>"], USER_DEFINED)
    file = byte_level(tmp_path, types=types, eos_token_id=2, fim_pad_token_id=260)
    assert set(file.settings["eos_token_id"]) == {2, 257, 258, 260}


def test_tokens_without_a_text_have_the_names_of_their_ids(tmp_path: Path) -> None:
    tokenizer = made(source(tmp_path, [*BYTES, "qz", "", ""], model="gpt2", pre="gpt-2", merges=["q z"]))
    assert tokenizer.convert_ids_to_tokens([257, 258]) == ["[EMPTY_257]", "[EMPTY_258]"]


def test_an_answer_of_gpt_oss_goes_on_after_its_first_message(tmp_path: Path) -> None:
    types = dict.fromkeys(["<|end|>", "<|return|>", "<|call|>", "<|endoftext|>"], CONTROL)
    file = byte_level(tmp_path, types=types, eos_token_id=258)
    assert set(file.settings["eos_token_id"]) == {258, 259, 260}


def test_what_ends_a_turn_is_one_token_of_a_chat_whatever_type_the_file_gives_it(tmp_path: Path) -> None:
    for types in ({"<|im_end|>": 1}, {"<|im_end|>": USER_DEFINED}):
        tokenizer = made(byte_level(tmp_path, types=types))
        assert tokens_of(tokenizer, "a<|im_end|>b") == ["a", "<|im_end|>", "b"]
        assert tokenizer.decode(tokenizer("a<|im_end|>b")["input_ids"], skip_special_tokens=True) == "ab"


def test_a_file_of_sentencepiece_that_names_no_special_tokens_has_those_of_llama(tmp_path: Path) -> None:
    unsaid: dict[str, Any] = dict.fromkeys(["bos_token_id", "eos_token_id", "unknown_token_id"])
    tokenizer = made(sentencepiece(tmp_path, **unsaid))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")
    assert tokens_of(tokenizer, "ab", special=True) == ["<s>", "▁ab"]


@pytest.mark.parametrize(("name", "swallows"), [("Phi-3 mini", True), ("another", False)])
def test_white_space_after_a_control_token_belongs_to_it_in_phi_3(name: str, swallows: bool, tmp_path: Path) -> None:
    types = {"<|user|>": CONTROL, "</s>": USER_DEFINED, "<|endoftext|>": CONTROL}
    tokenizer = made(byte_level(tmp_path, types=types, general_name=name))
    rest = ["a"] if swallows else ["Ċ", "a"]
    for token in ("<|user|>", "</s>"):
        assert tokens_of(tokenizer, f"{token}\na<|endoftext|>\n") == [token, *rest, "<|endoftext|>", "Ċ"]


def test_the_template_for_tools_is_used_where_a_file_has_one(tmp_path: Path) -> None:
    tools = "{{ tools[0].name }}"
    tokenizer = made(byte_level(tmp_path, chat_template="plain", chat_template__tool_use=tools))
    assert tokenizer.get_chat_template() == "plain"
    assert tokenizer.get_chat_template(tools=[{}]) == tools


def test_a_template_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"expected tokenizer.chat_template to be of type str, got int '3'"):
        made(byte_level(tmp_path, chat_template=3))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"scores": ["a"] * 11}, r"tokenizer.ggml.scores to be a list of numbers, got"),
        ({"scores": [float("nan")] * 11}, r"tokenizer.ggml.scores has entries that are NaN or infinite"),
        ({"scores": [0.5] * 3}, r"tokenizer.ggml.scores has 3 entries; expected 11"),
        ({"token_type": ["a"] * 11}, r"tokenizer.ggml.token_type to be a list of numbers, got"),
        ({"add_bos_token": "false"}, r"tokenizer.ggml.add_bos_token to be of type bool, got str 'false'"),
        ({"add_space_prefix": 1}, r"tokenizer.ggml.add_space_prefix to be of type bool, got int '1'"),
    ],
)
def test_what_a_file_says_of_its_tokens_must_be_of_the_right_kind(
    entries: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    tokens = ["<unk>", "<s>", "</s>", *PIECES]
    sound: dict[str, Any] = {"scores": [-1.0] * len(tokens), "token_type": [1] * len(tokens)}
    with pytest.raises(LoadError, match=reason):
        made(source(tmp_path, tokens, model="llama", **sound | entries))


def test_a_tokenizer_can_be_copied_though_transformers_made_no_copy_of_it(tmp_path: Path) -> None:
    tokenizer = made(sentencepiece(tmp_path))
    copied = copy.deepcopy(tokenizer)
    copied.add_tokens(["ba"])
    assert (len(copied), copied.backend_tokenizer is tokenizer.backend_tokenizer) == (len(tokenizer) + 1, False)


def test_a_vocabulary_of_gemma_4_is_merged_as_its_merges_say(tmp_path: Path) -> None:
    pieces = ["▁", "▁▁", "a", "b", "▁a", "ab", "\n", "\n\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = ["▁ ▁", "a b", "▁ a", "\n \n"]
    tokens = ["<bos>", "<eos>", "<unk>", "<turn|>", *pieces]
    types = {"<bos>": CONTROL, "<eos>": CONTROL, "<turn|>": USER_DEFINED}
    special = {"bos_token_id": 0, "eos_token_id": 1, "unknown_token_id": 2}
    special |= {"add_bos_token": False, "add_space_prefix": True}  # neither of which is so
    file = source(tmp_path, tokens, types, "gemma4", model="gemma4", merges=merges, **special)
    tokenizer = made(file)
    text = "a ab  b\n\n\ré<turn|>"
    expected = ["<bos>", "a", "▁", "ab", "▁▁", "b", "\n\n", "<0x0D>", "<0xC3>", "<0xA9>", "<turn|>"]
    assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == expected
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == "a ab  b\n\n\ré"
    assert set(file.settings["eos_token_id"]) == {tokens.index("<eos>"), tokens.index("<turn|>")}


def test_what_ends_a_message_of_solar_open_ends_no_answer(tmp_path: Path) -> None:
    ends = dict.fromkeys(["<|end|>", "<|calls|>", "<|flush|>"], CONTROL)
    file = byte_level(tmp_path, types=ends)
    tokens = file.file.metadata["tokenizer.ggml.tokens"]
    assert set(file.settings["eos_token_id"]) == {tokens.index("<|calls|>"), tokens.index("<|flush|>")}

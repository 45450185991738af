"""A stream's pieces add up to the tokenizer's decode of all the ids, and no piece holds half a character."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from config import BUNDLED_MODEL
from inference.text.detokenizer import CONTEXT, REPLACEMENT, Detokenizer, is_rewritten
from inference.text.prompts import PromptEncoder
from tests.support.tiny_models import (
    SPECIAL_TOKENS,
    bpe_tokenizer,
    byte_fallback_tokenizer,
    byte_tokenizer,
    decode,
)

TOKENIZERS = ["bytes", "bpe", "bundled"]
EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True)
_loaded: dict[str, PreTrainedTokenizerBase] = {}


def tokenizer_named(name: str) -> PreTrainedTokenizerBase:
    if name not in _loaded:
        match name:
            case "bytes":
                _loaded[name] = byte_tokenizer()
            case "bpe":
                _loaded[name] = bpe_tokenizer()
            case "bundled":
                _loaded[name] = AutoTokenizer.from_pretrained(str(BUNDLED_MODEL))
    return _loaded[name]


def pieces_of(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> list[str]:
    """The pieces of a stream of these tokens, one for each and one for the end."""
    detokenizer = Detokenizer(lambda ids: decode(tokenizer, ids))
    return [detokenizer.push(token_id) for token_id in token_ids] + [detokenizer.flush()]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


# --- Tokenizers of bytes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOKENIZERS)
@EXAMPLES
@given(text=st.text())
@example(text="hi😀")
@example(text="�")
@example(text="👨‍👩‍👧‍👦 é e\u0301 你好 \u2028\x00\r\n")
def test_any_text_comes_out_of_its_pieces_as_it_went_in(name: str, text: str) -> None:
    tokenizer = tokenizer_named(name)
    token_ids = encode(tokenizer, text)
    assert "".join(pieces_of(tokenizer, token_ids)) == decode(tokenizer, token_ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@EXAMPLES
@given(data=st.data())
def test_any_token_ids_give_the_decode_of_all_of_them(name: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_named(name)
    past_the_end = len(tokenizer) + 20  # a model may have more ids than its tokenizer has tokens
    token_ids = data.draw(st.lists(st.integers(0, past_the_end), max_size=60))
    assert "".join(pieces_of(tokenizer, token_ids)) == decode(tokenizer, token_ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@EXAMPLES
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters=REPLACEMENT)))
def test_no_piece_of_a_whole_text_holds_half_a_character(name: str, text: str) -> None:
    tokenizer = tokenizer_named(name)
    assert REPLACEMENT not in "".join(pieces_of(tokenizer, encode(tokenizer, text)))


@EXAMPLES
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters=REPLACEMENT), min_size=1))
def test_every_character_is_given_with_its_last_byte(text: str) -> None:
    pieces = pieces_of(byte_tokenizer(), encode(byte_tokenizer(), text))
    expected = [piece for character in text for piece in [""] * (len(character.encode()) - 1) + [character]]
    assert pieces == [*expected, ""]


def test_what_comes_before_an_unfinished_emoji_is_not_held_back() -> None:
    token_ids = encode(byte_tokenizer(), "hi😀")
    assert len(token_ids) == 6
    assert pieces_of(byte_tokenizer(), token_ids) == ["h", "i", "", "", "", "😀", ""]


def test_a_token_that_ends_one_character_and_begins_another_gives_the_first() -> None:
    h, i, *emoji = encode(byte_tokenizer(), "hi😀")
    joined = {1: [h, i, *emoji[:2]], 2: emoji[2:]}
    detokenizer = Detokenizer(lambda ids: decode(byte_tokenizer(), [one for token in ids for one in joined[token]]))
    assert [detokenizer.push(1), detokenizer.push(2), detokenizer.flush()] == ["hi", "😀", ""]


def test_half_a_character_at_the_end_becomes_a_replacement_character() -> None:
    token_ids = encode(byte_tokenizer(), "ab😀")[:-1]
    assert pieces_of(byte_tokenizer(), token_ids) == ["a", "b", "", "", "", REPLACEMENT]


def test_bytes_that_are_no_character_come_as_soon_as_a_character_follows() -> None:
    token_ids = [*encode(byte_tokenizer(), "é")[:1] * 3, *encode(byte_tokenizer(), "xy")]
    assert pieces_of(byte_tokenizer(), token_ids) == ["", "", "", REPLACEMENT * 3 + "x", "y", ""]


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_special_tokens_are_skipped_even_inside_a_character(token: str) -> None:
    tokenizer = byte_tokenizer()
    [special] = encode(tokenizer, token)
    first, *rest = encode(tokenizer, "😀")
    token_ids = [special, *encode(tokenizer, "a"), special, first, special, *rest, special, *encode(tokenizer, "b")]
    assert pieces_of(tokenizer, token_ids) == ["", "a", "", "", "", "", "", "😀", "", "b", ""]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_long_text_is_decoded_in_bounded_windows(name: str) -> None:
    tokenizer = tokenizer_named(name)
    token_ids = encode(tokenizer, "The cat sat. 你好，世界！ 😀😁 naïve café\n" * 40)
    longest = 0

    def counting_decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return decode(tokenizer, ids)

    detokenizer = Detokenizer(counting_decode)
    pieces = [detokenizer.push(token_id) for token_id in token_ids] + [detokenizer.flush()]
    assert "".join(pieces) == decode(tokenizer, token_ids)
    assert len(token_ids) > 10 * CONTEXT
    assert longest <= 3 * CONTEXT + 4  # two stretches of context, and a character's tokens for each of them


# --- Tokenizers of words with bytes to fall back on -------------------------------------------------------------------

_WORDS = st.sampled_from(["▁", "▁the", "▁cat", "s", "at", "▁a", "é", "好", ".", "\n", *SPECIAL_TOKENS])
_BYTES_OF_A_CHARACTER = st.characters(exclude_categories=["Cs"], exclude_characters=REPLACEMENT).map(
    lambda character: [f"<0x{byte:02X}>" for byte in character.encode()]
)
_STREAMS = st.lists(_WORDS.map(lambda word: [word]) | _BYTES_OF_A_CHARACTER, max_size=40).map(
    lambda groups: [token for group in groups for token in group]
)


def ids_of(tokens: Sequence[str]) -> list[int]:
    ids = byte_fallback_tokenizer().convert_tokens_to_ids(list(tokens))
    assert isinstance(ids, list)
    return ids


@settings(max_examples=400, deadline=None, derandomize=True)
@given(tokens=_STREAMS)
@example(tokens=["▁the", *["<eos>"] * 40, "▁cat"])
@example(tokens=["▁"] * 40)
@example(tokens=[*["<0xE5>", "<0xA5>", "<0xBD>"] * 30, "▁cat"])
def test_words_and_bytes_of_whole_characters_give_the_decode_of_all_of_them(tokens: list[str]) -> None:
    token_ids = ids_of(tokens)
    pieces = pieces_of(byte_fallback_tokenizer(), token_ids)
    assert "".join(pieces) == decode(byte_fallback_tokenizer(), token_ids)
    assert REPLACEMENT not in "".join(pieces)


@EXAMPLES
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters=REPLACEMENT)))
def test_any_text_comes_out_of_words_and_bytes_as_it_went_in(text: str) -> None:
    token_ids = encode(byte_fallback_tokenizer(), text)
    assert "".join(pieces_of(byte_fallback_tokenizer(), token_ids)) == decode(byte_fallback_tokenizer(), token_ids)


def test_the_space_before_a_word_comes_with_the_word() -> None:
    pieces = pieces_of(byte_fallback_tokenizer(), ids_of(["▁the", "▁cat", "s", "▁", "at"]))
    assert pieces == ["the", " cat", "s", " ", "at", ""]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(before=_STREAMS, tokens=_STREAMS)
@example(before=["▁the"], tokens=["▁cat"])
@example(before=[*["<0xE5>", "<0xA5>", "<0xBD>"] * 3], tokens=["▁"] * 40)
def test_a_text_that_continues_another_is_what_it_adds_to_that(before: list[str], tokens: list[str]) -> None:
    tokenizer, context, token_ids = byte_fallback_tokenizer(), ids_of(before)[-CONTEXT:], ids_of(tokens)
    shown = decode(tokenizer, context)
    if not shown or REPLACEMENT in shown:
        return
    detokenizer = Detokenizer(lambda ids: decode(tokenizer, ids), ids_of(before))
    pieces = [detokenizer.push(token_id) for token_id in token_ids] + [detokenizer.flush()]
    assert shown + "".join(pieces) == decode(tokenizer, context + token_ids)


@pytest.mark.parametrize("before", [["<0xE5>", "<0xA5>"], ["<eos>"] * 5], ids=["half a character", "no text"])
def test_after_what_no_text_could_continue_it_begins_as_by_itself(before: list[str]) -> None:
    detokenizer = Detokenizer(lambda ids: decode(byte_fallback_tokenizer(), ids), ids_of(before))
    assert [detokenizer.push(token_id) for token_id in ids_of(["▁the", "▁cat"])] == ["the", " cat"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_text_side_decodes_as_the_tokenizer_does(name: str) -> None:
    tokenizer = tokenizer_named(name)
    token_ids = [*encode(tokenizer, "the cat, 你好！"), *tokenizer.all_special_ids, *encode(tokenizer, " sat")]
    encoder = PromptEncoder(tokenizer, 100, len(tokenizer), ())
    assert encoder.detokenize(token_ids) == tokenizer.decode(token_ids, clean_up_tokenization_spaces=False)
    assert encoder._decode(token_ids) == decode(tokenizer, token_ids)


def test_a_tokenizer_with_a_way_of_its_own_to_decode_is_asked() -> None:
    class Loud(PreTrainedTokenizerFast):
        def _decode(self, *args: Any, **kwargs: Any) -> str:
            return super()._decode(*args, **kwargs).upper()

    tokenizer = Loud(tokenizer_object=byte_tokenizer().backend_tokenizer)  # type: ignore[no-untyped-call]
    encoder = PromptEncoder(tokenizer, 100, len(tokenizer), ())
    assert encoder.detokenize(encode(tokenizer, "the cat")) == "THE CAT"


def test_a_text_that_a_later_token_changes_is_told_from_one_that_grows() -> None:
    words = ["hel@@", "lo", "wor@@", "ld"]
    assert is_rewritten(lambda ids: " ".join(words[number] for number in ids).replace("@@ ", ""), range(4))
    assert not is_rewritten(lambda ids: "".join(words[number] for number in ids), range(4))
    for tokenizer in (byte_tokenizer(), bpe_tokenizer()):
        assert not is_rewritten(PromptEncoder(tokenizer, 100, len(tokenizer), [])._decode, range(len(tokenizer)))

"""The bytes of an answer's tokens, joined, are the bytes of its text, whatever the tokenizer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from inference.text.token_bytes import TokenBytes
from tests.support.tiny_models import (
    SPECIAL_TOKENS,
    bpe_tokenizer,
    byte_fallback_tokenizer,
    byte_tokenizer,
    fast_tokenizer,
    syllable_tokenizer,
)

TEXTS = ["the cat sat", "你好，世界。", "naïve café 😀😁", "\n\t\x00 \x7f", "<eos>"]


def joined(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> bytes:
    token_bytes = TokenBytes(tokenizer)
    return b"".join(token_bytes.bytes_of(token_id) for token_id in token_ids)


@pytest.mark.parametrize("tokenizer", [byte_tokenizer, bpe_tokenizer], ids=lambda make: str(make.__name__))
@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.sampled_from(TEXTS) | st.text())
def test_byte_level_tokens_join_to_the_text(tokenizer: type[PreTrainedTokenizerBase], text: str) -> None:
    assert joined(tokenizer(), tokenizer()(text)["input_ids"]) == text.encode()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.text(st.sampled_from("the catsé好.\n😀ž"), min_size=1))
def test_tokens_with_byte_fallback_join_to_the_text_and_its_first_space(text: str) -> None:
    tokenizer = byte_fallback_tokenizer()
    assert joined(tokenizer, tokenizer(text)["input_ids"]) in (text.encode(), b" " + text.encode())


def test_half_a_character_keeps_its_bytes_and_shows_as_a_replacement() -> None:
    tokenizer = byte_fallback_tokenizer()
    token_bytes = TokenBytes(tokenizer)
    ids = [token_id for token_id in tokenizer("😀")["input_ids"] if token_bytes.bytes_of(token_id) != b" "]
    assert [token_bytes.bytes_of(token_id) for token_id in ids] == [b"\xf0", b"\x9f", b"\x98", b"\x80"]
    assert token_bytes.text_of(ids[0]) == "\ufffd"


def test_a_tokens_text_keeps_its_space() -> None:
    tokenizer = byte_fallback_tokenizer()
    assert TokenBytes(tokenizer).text_of(tokenizer("cat")["input_ids"][0]) == " cat"


@pytest.mark.parametrize("make", [byte_tokenizer, byte_fallback_tokenizer, syllable_tokenizer])
def test_a_special_token_is_its_own_name(make: type[PreTrainedTokenizerBase]) -> None:
    tokenizer = make()
    assert TokenBytes(tokenizer).text_of(SPECIAL_TOKENS.index("<eos>")) == "<eos>"


def test_an_id_without_a_token_has_no_bytes() -> None:
    assert TokenBytes(byte_tokenizer()).bytes_of(10_000) == b""


def test_a_metaspace_decoder_writes_spaces() -> None:
    tokenizer = Tokenizer(models.Unigram([("<unk>", -1.0), ("▁word", -2.0)], unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    assert TokenBytes(fast_tokenizer(tokenizer)).bytes_of(1) == b" word"


def test_tokens_of_any_other_tokenizer_are_what_it_decodes_them_to() -> None:
    tokenizer = syllable_tokenizer()
    ids = tokenizer("banana 😀")["input_ids"]
    assert joined(tokenizer, ids) == "banana 😀".encode()

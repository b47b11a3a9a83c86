"""Tokenizers give back every text, one id at a time as well."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carousel.model import (
    Bytes,
    Characters,
    ConfigError,
    ModelConfig,
    Softmax,
    Subwords,
    Tokenizer,
    TokenizerError,
    Tokens,
    Words,
)

LEARNED = Subwords.learn(["the theme of the thesis\n", "naïve — 東京\n"] * 20, 300)
ALL: list[Tokenizer] = [Characters("ab\n"), Bytes(), LEARNED, Words(("ab", "c"))]
NAMES = ["characters", "bytes", "subwords", "words"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("tokenizer", [Bytes(), LEARNED], ids=["bytes", "subwords"])
@given(text=TEXT)
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    decoder = tokenizer.decoder()
    assert "".join(decoder.feed(i) for i in ids) + decoder.rest() == text


@given(ids=st.lists(st.integers(0, len(LEARNED) - 1)))
def test_any_ids_are_valid_text_one_at_a_time(ids: list[int]) -> None:
    decoder = LEARNED.decoder()
    text = "".join(decoder.feed(i) for i in ids) + decoder.rest()
    assert text == LEARNED.decode(ids)
    text.encode()


@given(lines=st.lists(TEXT))
def test_subwords_encode_line_by_line(lines: list[str]) -> None:
    lines = [line.replace("\n", "") + "\n" for line in lines]
    parts = [i for line in lines for i in LEARNED.encode(line)]
    assert LEARNED.encode("".join(lines)) == parts


def test_subwords_are_shorter_than_bytes() -> None:
    text = "the theme of the thesis\n"
    assert len(LEARNED.encode(text)) < len(text) / 2


@pytest.mark.parametrize("tokenizer", ALL, ids=NAMES)
def test_a_config_carries_its_tokenizer_through_json(tokenizer: Tokenizer) -> None:
    size = len(tokenizer)
    config = ModelConfig(
        cell="gru",
        layers=1,
        hidden_size=2,
        input=Tokens(size, 2),
        head=Softmax(size),
        tokenizer=tokenizer,
    )
    again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.tokenizer is not None
    assert again.tokenizer.encode("ab\n") == tokenizer.encode("ab\n")


@pytest.mark.parametrize("tokenizer", ALL, ids=NAMES)
def test_ids_out_of_range_are_refused(tokenizer: Tokenizer) -> None:
    for wrong in (-1, len(tokenizer)):
        with pytest.raises(TokenizerError, match=f"between 0 and {len(tokenizer) - 1}"):
            tokenizer.decode([wrong])
        with pytest.raises(TokenizerError):
            tokenizer.decoder().feed(wrong)


@pytest.mark.parametrize("tokenizer", [Bytes(), LEARNED], ids=["bytes", "subwords"])
def test_half_a_character_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="at position 1 is half of a pair"):
        tokenizer.encode("a\ud800")


@pytest.mark.parametrize(
    "merges", ["ab", ["a b"], ("a",), ("a b c",), ("a bc",), ("a  b",), (1,)], ids=str
)
def test_impossible_merges_are_refused(merges: Any) -> None:
    with pytest.raises(ConfigError, match="merge"):
        Subwords(merges)


def test_words_have_blanks_between_and_one_id_for_what_is_not_known() -> None:
    tokenizer = Words(("ab", "c"))
    ids = tokenizer.encode(" c  ab\nxyz c")
    assert ids == [2, 1, 0, 2]
    assert tokenizer.decode(ids) == "c ab \ufffd c"
    decoder = tokenizer.decoder()
    assert "".join(decoder.feed(i) for i in ids) + decoder.rest() == tokenizer.decode(ids)


@pytest.mark.parametrize("words", ["ab", ["ab"], ("a b",), ("",), ("ab", "ab"), (1,)], ids=str)
def test_impossible_words_are_refused(words: Any) -> None:
    with pytest.raises(ConfigError, match="words must"):
        Words(words)

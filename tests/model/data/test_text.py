"""Text becomes tokens in pieces, and comes back the same."""

from __future__ import annotations

import pydoc_data.topics
from pathlib import Path

import numpy as np
import pytest

from carousel.model import Characters
from carousel.model.data import DataError, LanguageModelTask
from carousel.model.data.text import prepare_text

TOPICS = "".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))[:60_000]
STRANGE = "naïve — 東京 🎠\r\n\tend\n\n" + "x" * 70_000 + "\n" + "東" * 3_000 + "\n\nlast"


def write(folder: Path, text: str) -> Path:
    path = folder / "text.txt"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("tokenization", ["characters", "bytes", "subwords"])
@pytest.mark.parametrize("text", [TOPICS, STRANGE], ids=["topics", "strange"])
@pytest.mark.parametrize("end", ["", "\n"])
def test_tokens_are_the_text_however_small_the_pieces(
    tmp_path: Path, tokenization: str, text: str, end: str
) -> None:
    text += end
    task = LanguageModelTask(tokenization=tokenization, vocabulary=400, document_separator="\n\n")
    path = write(tmp_path, text)
    whole = prepare_text(path, task, tmp_path / "whole")
    pieces = prepare_text(path, task, tmp_path / "pieces", piece=4099)
    assert whole.digest == pieces.digest
    assert whole.tokenizer is not None
    assert whole.tokenizer.decode(whole.steps.tolist()) == text
    assert whole.vocabulary == len(whole.tokenizer)
    assert whole.steps.dtype == (np.uint16 if whole.vocabulary > 256 else np.uint8)


def test_documents_end_with_their_separator_and_segments_stay_within(tmp_path: Path) -> None:
    documents = [f"document {i} " + "word " * (i % 7) for i in range(200)]
    path = write(tmp_path, "<end>".join(documents))
    task = LanguageModelTask(document_separator="<end>")
    corpus = prepare_text(path, task, tmp_path / "corpus", piece=13)
    assert corpus.tokenizer is not None
    found = [
        corpus.tokenizer.decode(corpus.steps[a:b].tolist())
        for a, b in zip(corpus.starts, corpus.starts[1:], strict=False)
    ]
    assert found == [d + "<end>" for d in documents[:-1]] + [documents[-1]]
    for segments in corpus.segments.values():
        sequence = np.searchsorted(corpus.starts, segments[:, 0], "right")
        assert (segments[:, 2] <= corpus.starts[sequence]).all()


@pytest.mark.parametrize("tokenization", ["characters", "bytes", "subwords"])
def test_splits_are_cut_at_the_same_character_whatever_the_tokens(
    tmp_path: Path, tokenization: str
) -> None:
    task = LanguageModelTask(tokenization=tokenization, vocabulary=300)
    corpus = prepare_text(write(tmp_path, TOPICS), task, tmp_path / "corpus")
    assert corpus.tokenizer is not None
    for split, begin, end in [
        ("train", 0, 48_000),
        ("validation", 48_000, 54_000),
        ("test", 54_000, 60_000),
    ]:
        [[_, scored, last]] = corpus.segments[split].tolist()
        assert corpus.tokenizer.decode(corpus.steps[scored:last].tolist()) == TOPICS[begin:end]


def test_subwords_learn_nothing_from_the_held_out_part(tmp_path: Path) -> None:
    task = LanguageModelTask(tokenization="subwords", vocabulary=320)
    base, planted = TOPICS[:8_000], TOPICS[:8_000] + "zqzqzq" * 300
    other = TOPICS[:8_000] + "jkjkjk" * 300
    tokenizers = []
    for i, text in enumerate((planted, other)):
        path = write(tmp_path, text)
        held_out = 1 - len(base) / len(text)
        corpus = prepare_text(
            path, task, tmp_path / str(i), validation_share=0, test_share=held_out
        )
        tokenizers.append(corpus.tokenizer)
    assert tokenizers[0] == tokenizers[1]


def test_an_alphabet_is_of_the_whole_text(tmp_path: Path) -> None:
    corpus = prepare_text(
        write(tmp_path, "ab" * 50 + "Z"), LanguageModelTask(), tmp_path / "corpus"
    )
    assert corpus.tokenizer == Characters("Zab")


def test_a_byte_order_mark_is_no_character(tmp_path: Path) -> None:
    corpus = prepare_text(
        write(tmp_path, "\ufeff" + "ab" * 50), LanguageModelTask(), tmp_path / "corpus", piece=2
    )
    assert corpus.tokenizer == Characters("ab")


@pytest.mark.parametrize("piece", [3, 1 << 20])
def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path: Path, piece: int) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes("één\ntwo\nthr".encode() + b"\xff\xfe" + b"\nfour")
    with pytest.raises(DataError, match="row 3: byte 0xff is not UTF-8") as refused:
        prepare_text(path, LanguageModelTask(), tmp_path / "corpus", piece=piece)
    assert refused.value.row == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least 2 characters, got 0"),
        ("a", "at least 2 characters, got 1"),
        ("abc", "nothing is left for the"),
    ],
)
def test_too_little_text_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare_text(write(tmp_path, text), LanguageModelTask(), tmp_path / "corpus")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the file cannot be read: No such file"):
        prepare_text(tmp_path / "text.txt", LanguageModelTask(), tmp_path / "corpus")

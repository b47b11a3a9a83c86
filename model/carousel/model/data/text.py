"""Text to a corpus of tokens, in pieces: a file may be larger than memory."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from carousel.model.data.corpus import Array, Corpus, CorpusWriter
from carousel.model.data.segments import bounded, check_filled, cut_sequences, shares
from carousel.model.data.tasks import LanguageModelTask
from carousel.model.errors import DataError
from carousel.model.tokenizer import Bytes, Characters, Subwords, Tokenizer

PIECE = 1 << 20
# A line longer than this is encoded in parts: the work on a word grows with its square.
LONGEST_LINE = 1 << 12
LINES = re.compile(rf"[^\n]{{0,{LONGEST_LINE - 1}}}\n|[^\n]{{1,{LONGEST_LINE}}}")
# Subwords are learned from at most so many characters of the training part.
LEARN_FROM = 1 << 26


def prepare_text(
    path: Path | str,
    task: LanguageModelTask,
    folder: Path | str,
    *,
    validation_share: float = 0.1,
    test_share: float = 0.1,
    piece: int = PIECE,
) -> Corpus:
    """The corpus of a UTF-8 file; raises DataError where it is not that, or is too short.

    An alphabet of characters is that of the whole text, so that the held-out part can be read; all
    else that is learned (subwords) is of the training part. Documents are cut where they lie across
    a border of the split.
    """
    edges = shares(validation_share, test_share)
    path = Path(path)
    symbols, length = _survey(path, piece)
    if length < 2:
        raise DataError(f"a text must have at least 2 characters, got {length}")
    edges = bounded(edges, length)
    cuts = [round(length * edge) for edge in edges]
    tokenizer = _tokenizer(path, task, symbols, cuts[0], piece)
    dtype = np.min_scalar_type(len(tokenizer) - 1)
    writer = CorpusWriter(folder)
    starts: list[int] = [0]
    places: list[int] = []
    read = made = 0
    for part, ends in documents(text_pieces(path, piece), task.document_separator):
        for text in _cut_at(part, [cut - read for cut in cuts]):
            ids = encode(tokenizer, text, dtype)
            writer.append("steps", ids)
            read, made = read + len(text), made + len(ids)
            places += [made] * cuts.count(read)
        if ends:
            starts.append(made)
    if made > starts[-1]:
        starts.append(made)
    laid = np.array(starts, np.int64)
    segments = cut_sequences(laid, np.stack([np.clip(p, laid[:-1], laid[1:]) for p in places], 1))
    check_filled(segments, edges, length, "characters")
    writer.append("starts", laid)
    return writer.seal(task, segments, tokenizer=tokenizer, vocabulary=len(tokenizer))


def text_pieces(path: Path, piece: int = PIECE) -> Iterator[str]:
    """The text of a UTF-8 file (a byte order mark is left out), `piece` bytes at a time."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line = 1
    try:
        with path.open("rb") as file:
            while data := file.read(piece):
                text = decoder.decode(data)
                line += text.count("\n")
                yield text
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        raise DataError(
            f"byte 0x{wrong:02x} is not UTF-8 ({error.reason})",
            row=line + error.object[: error.start].count(b"\n"),
        ) from None
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror}") from None


def documents(pieces: Iterable[str], separator: str) -> Iterator[tuple[str, bool]]:
    """Parts of documents, each with whether a separator ends its document there.

    A part ends behind a line or a document, or where a line is too long: where it ends does not
    depend on how the text came in pieces.
    """
    held = ""
    for piece in pieces:
        held += piece
        *whole, held = held.split(separator) if separator else (held,)
        for document in whole:
            yield document + separator, True
        cut = _cut(held, len(separator))
        if cut:
            yield held[:cut], False
            held = held[cut:]
    if held:
        yield held, False


def encode(tokenizer: Tokenizer, text: str, dtype: Any) -> Array:
    """The ids of a text [N], faster than one character at a time."""
    if isinstance(tokenizer, Bytes):
        return np.frombuffer(text.encode(), np.uint8)
    if isinstance(tokenizer, Characters):
        known, points = (
            np.frombuffer(t.encode("utf-32-le"), "<u4") for t in (tokenizer.symbols, text)
        )
        return np.searchsorted(known, points).astype(dtype)
    return np.array([i for line in LINES.findall(text) for i in tokenizer.encode(line)], dtype)


def _survey(path: Path, piece: int) -> tuple[str, int]:
    """The different characters in their order, and how many there are in all."""
    symbols: set[str] = set()
    length = 0
    for text in text_pieces(path, piece):
        symbols.update(text)
        length += len(text)
    return "".join(sorted(symbols)), length


def _tokenizer(
    path: Path, task: LanguageModelTask, symbols: str, train: int, piece: int
) -> Tokenizer:
    if task.tokenization == "characters":
        return Characters(symbols)
    if task.tokenization == "bytes":
        return Bytes()
    return Subwords.learn(_first(documents(text_pieces(path, piece), ""), train), task.vocabulary)


def _cut_at(part: str, places: list[int]) -> Iterator[str]:
    """The part, cut at the places that lie in it, and around the lines that they lie in.

    A line that is cut is encoded alike, wherever the part begins.
    """
    inside = [place for place in places if 0 < place < len(part)]
    edges = {0, len(part), *inside}
    for line in LINES.finditer(part) if inside else ():
        if any(line.start() < place < line.end() for place in inside):
            edges |= {line.start(), line.end()}
    yield from (part[a:b] for a, b in pairwise(sorted(edges)))


def _first(parts: Iterator[tuple[str, bool]], characters: int) -> Iterator[str]:
    left = min(characters, LEARN_FROM)
    for part, _ in parts:
        if left <= 0:
            return
        yield from LINES.findall(part[:left])
        left -= len(part)


def _cut(held: str, separator: int) -> int:
    """Where what is held may be cut: not where a separator may have begun."""
    limit = max(0, len(held) - max(0, separator - 1))
    start = held.rfind("\n", 0, limit) + 1
    return start + (limit - start) // LONGEST_LINE * LONGEST_LINE

"""Inputs from files and arguments: features from CSV or numpy's files, tokens from text."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carousel.errors import InputMismatch, NoTokenizer, TokenOutOfRange

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from carousel.client import ModelConfig

Sequences = "list[npt.NDArray[np.generic]]"


def read(
    path: Path, config: ModelConfig, columns: Sequence[str] = (), sequence: str | None = None
) -> list[Any]:
    """The sequences of one file, each [T, D] features or [T] tokens; `-` is standard input.

    .npy holds one sequence, or [N, T, D] features of N; .npz a dataset with `x` and perhaps
    `starts`, as jobs learn from, or else a sequence in each array. Everything else is text:
    for a model of tokens the text itself is the sequence, for a model of features it is CSV, a
    step a line, with blank lines between sequences. Of a table with a heading `columns` picks
    what is read, and the column `sequence` says which sequence a row is of.
    """
    if path.suffix in (".npy", ".npz"):
        return _from_numpy(path, config)
    text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    if config.input_type == "tokens" and (columns or sequence):
        blocks = _of_table(text, columns, sequence)
        return [encode("\n".join(block), config) for block in blocks]
    if config.input_type == "tokens":
        # An editor ends a file with a newline that nobody typed.
        return [encode(text.removesuffix("\n"), config)]
    return [features(block, config) for block in _blocks(text, columns, sequence)]


def _from_numpy(path: Path, config: ModelConfig) -> list[Any]:
    import numpy as np

    loaded = np.load(path, allow_pickle=False)
    if path.suffix == ".npz":
        with loaded:
            if "x" in loaded.files:
                return _from_archive(loaded)
            return [loaded[name] for name in loaded.files]
    deep = 2 if config.input_type == "tokens" else 3
    return list(loaded) if loaded.ndim == deep else [loaded]


def _from_archive(arrays: Any) -> list[Any]:
    """The sequences of a dataset: `x` [N, D] cut by `starts` [S + 1], or `x` [S, T, D]."""
    x = arrays["x"]
    if "starts" not in arrays.files:
        return list(x) if x.ndim == 3 else [x]
    return [x[begin:end] for begin, end in itertools.pairwise(arrays["starts"])]


def _blocks(text: str, columns: Sequence[str], sequence: str | None) -> list[list[str]]:
    if columns or sequence:
        return _of_table(text, columns, sequence)
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def _of_table(text: str, columns: Sequence[str], sequence: str | None) -> list[list[str]]:
    """Only these columns, all but `sequence` when there are none, a block a sequence."""
    rows = csv.DictReader(io.StringIO(text), restval="")
    header = rows.fieldnames or []
    for column in (*columns, *([sequence] if sequence else [])):
        if column not in header:
            raise InputMismatch(f"there is no column {column!r}, there are {', '.join(header)}")
    chosen = columns or [column for column in header if column != sequence]
    blocks: dict[str, list[str]] = {}
    for row in rows:
        block = blocks.setdefault(row[sequence] if sequence else "", [])
        block.append(",".join(row[column] for column in chosen))
    return list(blocks.values())


def features(lines: Iterable[str], config: ModelConfig) -> npt.NDArray[np.float32]:
    """CSV as [T, D]. A first line without a number in it is taken for a heading."""
    import numpy as np

    rows = [row for row in csv.reader(lines) if row]
    if rows and not any(map(_is_number, rows[0])):
        rows = rows[1:]
    wide = config.input_size
    for number, row in enumerate(rows, start=1):
        if len(row) != wide or not all(map(_is_number, row)):
            raise InputMismatch(
                f"each step must have {wide} numbers separated by commas, "
                f"got {','.join(row)!r} in step {number}"
            )
    return np.asarray([[float(cell) for cell in row] for row in rows], np.float32)  # [T, D]


def encode(text: str, config: ModelConfig) -> npt.NDArray[np.int64]:
    """Text as [T] tokens, through the tokenizer in the model's config, if it is a plain one."""
    import numpy as np

    tokenizer = json.loads(config.json).get("tokenizer") or {}
    kind = tokenizer.get("type", "characters")
    if kind == "bytes":
        return np.frombuffer(text.encode(), np.uint8).astype(np.int64)
    if kind == "words":  # 0 is every word that was not learned
        known = {word: number for number, word in enumerate(tokenizer["words"], start=1)}
        return np.asarray([known.get(word, 0) for word in text.split()], np.int64)
    symbols = tokenizer.get("symbols")
    if kind != "characters" or not symbols:
        has = (
            f"a tokenizer of {kind}, which the server alone applies"
            if tokenizer
            else "no tokenizer"
        )
        raise NoTokenizer(f"the model has {has}: give token numbers, as .npy of whole numbers")
    ids = {symbol: number for number, symbol in enumerate(symbols)}
    unknown = next((c for c in text if c not in ids), None)
    if unknown is not None:
        raise TokenOutOfRange(
            f"the character {unknown!r} at place {text.index(unknown)} is not in the vocabulary: "
            f"{symbols!r}"
        )
    return np.asarray([ids[character] for character in text], np.int64)  # [T]


def steps(values: Sequence[str], config: ModelConfig) -> Any:
    """Arguments as [T, D] features (`0.1,0.2`) or [T] tokens (numbers, or text)."""
    import numpy as np

    if config.input_type == "features":
        return features(io.StringIO("\n".join(values)), config)
    if all(value.isdecimal() for value in values):
        return np.asarray([int(value) for value in values], np.int64)
    return encode(" ".join(values), config)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True

"""Inputs from files and arguments: features from tables or numpy's files, tokens from text."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carousel.cli import table_file
from carousel.cli.table_file import JSON_LINES, PARQUET, TableFile
from carousel.errors import InputMismatch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from carousel.client import ModelConfig

Tokenize = Callable[[list[str]], list[Any]]
"""Texts to [T] tokens each."""


@dataclass(frozen=True, slots=True)
class Pick:
    """What is meant of a table: the columns to read, which of its columns says of which sequence a
    row is, and by which rows are in order."""

    columns: Sequence[str] = ()
    sequence: str | None = None
    time: str | None = None

    def __bool__(self) -> bool:
        return bool(self.columns or self.sequence or self.time)

    @property
    def others(self) -> tuple[str | None, ...]:
        return self.sequence, self.time


@dataclass(frozen=True, slots=True)
class Named:
    """A sequence [T, D] of features or [T] of tokens, and the name that its table gives it."""

    values: Any
    name: str = ""


def read(path: Path, config: ModelConfig, tokenize: Tokenize, pick: Pick = Pick()) -> list[Named]:
    """The sequences of one file, features or tokens; `-` is standard input.

    .npy holds one sequence, or [N, T, D] features of N; .npz a dataset with `x` and perhaps
    `starts`, as jobs learn from, or else a sequence in each array. Parquet, JSON lines, and CSV
    with a heading are tables. Everything else is text: for a model of tokens the text itself is
    the sequence, for a model of features it is CSV, a step a line, with blank lines between
    sequences.
    """
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return [Named(values) for values in _from_numpy(path, config)]
    if suffix in (*PARQUET, *JSON_LINES):
        return _of_table(table_file.read(path), config, tokenize, pick)
    text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8-sig")
    if pick or _has_names(text, config):
        return _of_table(table_file.read(path, text), config, tokenize, pick)
    if config.input_type == "tokens":
        # An editor ends a file with a newline that nobody typed.
        return [Named(tokens) for tokens in tokenize([text.removesuffix("\n")])]
    return [Named(features(block, config)) for block in _blocks(text)]


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


def _has_names(text: str, config: ModelConfig) -> bool:
    """Whether it is one table, whose heading has the columns of the model."""
    header = next(csv.reader(io.StringIO(text)), [])
    named = bool(config.input_names) and set(config.input_names) <= set(header)
    return named and all(line.strip() for line in text.strip().splitlines())


def _of_table(table: TableFile, config: ModelConfig, tokenize: Tokenize, pick: Pick) -> list[Named]:
    """A sequence for each different value of the column that says so, in the order of its times."""
    import numpy as np

    columns = _columns(table, config, pick)
    sequences = _rows(table, pick)
    if config.input_type == "tokens":
        symbols = table.texts(columns[0])
        # Words have blanks between them; of all other tokens each is a symbol of its own.
        between = " " if _tokenizer(config) == "words" else ""
        texts = [between.join(symbols[row] for row in rows) for rows in sequences.values()]
        return [Named(*one) for one in zip(tokenize(texts), sequences, strict=True)]
    values = np.stack([table.numbers(name) for name in columns], axis=1)  # [N, D]
    return [Named(_filled(values[rows], config), name) for name, rows in sequences.items()]


def _columns(table: TableFile, config: ModelConfig, pick: Pick) -> Sequence[str]:
    """The columns to read: those given, those that the model learned from, or all that are left."""
    for name in (*pick.columns, *pick.others):
        if name is not None:
            table.column(name)
    columns = pick.columns or [name for name in table.columns if name not in pick.others]
    if not pick.columns and set(config.input_names) <= set(columns):
        columns = config.input_names or columns
    width = config.input_size if config.input_type == "features" else 1
    if len(columns) != width:
        wanted = ", ".join(config.input_names) or f"{width} column(s)"
        raise InputMismatch(
            f"the model reads {wanted}, there are {', '.join(columns)}; --column names each in the "
            "model's order"
        )
    return columns


def _rows(table: TableFile, pick: Pick) -> dict[str, list[int]]:
    """The rows of each sequence by its name; they come in the order in which they appear."""
    count = len(next(iter(table.columns.values()), ()))
    order: Iterable[int] = range(count)
    if pick.time:
        moments = table.moments(pick.time)
        order = sorted(order, key=moments.__getitem__)
    if not pick.sequence:
        return {"": list(order)}
    names = table.texts(pick.sequence)
    rows: dict[str, list[int]] = {name: [] for name in names}
    for row in order:
        rows[names[row]].append(row)
    return rows


def _filled(values: npt.NDArray[np.float64], config: ModelConfig) -> npt.NDArray[np.float32]:
    """Missing values [T, D] become the last ones before them, else the mean, as in training."""
    import numpy as np

    here = ~np.isnan(values)
    if not here.all():
        mean = (json.loads(config.json).get("normalization") or {}).get("mean")
        if mean is None:
            raise InputMismatch("values are missing, and the model does not say by what to fill")
        steps = np.arange(1, len(values) + 1)[:, None]
        latest = np.maximum.accumulate(np.where(here, steps, 0), axis=0)
        values = np.concatenate([[mean], values])[latest, np.arange(values.shape[1])]
    return values.astype(np.float32)


def _blocks(text: str) -> list[list[str]]:
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def features(lines: Iterable[str], config: ModelConfig) -> npt.NDArray[np.float32]:
    """CSV as [T, D]. A first line without a number in it is taken for a heading."""
    import numpy as np

    rows = [row for row in csv.reader(lines) if row]
    if rows and all(table_file.number(cell) is None for cell in rows[0]):
        rows = rows[1:]
    wide = config.input_size
    names = f" ({', '.join(config.input_names)})" if config.input_names else ""
    for count, row in enumerate(rows, start=1):
        if len(row) != wide or any(table_file.number(cell) is None for cell in row):
            raise InputMismatch(
                f"each step must have {wide} numbers{names} separated by commas, "
                f"got {','.join(row)!r} in step {count}"
            )
    return np.asarray([[float(cell) for cell in row] for row in rows], np.float32)  # [T, D]


def steps(values: Sequence[str], config: ModelConfig, tokenize: Tokenize) -> Any:
    """Arguments as [T, D] features (`0.1,0.2`) or [T] tokens (numbers, or text)."""
    import numpy as np

    if config.input_type == "features":
        return features(io.StringIO("\n".join(values)), config)
    if all(value.isdecimal() for value in values):
        return np.asarray([int(value) for value in values], np.int64)
    return tokenize([" ".join(values)])[0]


def _tokenizer(config: ModelConfig) -> str:
    """`characters`, `bytes`, `subwords` or `words`; empty where there is none."""
    return str((json.loads(config.json).get("tokenizer") or {}).get("type", ""))

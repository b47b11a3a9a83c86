"""What is in a file: its columns with their statistics; reading all of it is also its check."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from carousel.model.data.archive import Archive
from carousel.model.data.cells import TIMES, plain
from carousel.model.data.corpus import Array
from carousel.model.data.tables import Table
from carousel.model.data.text import text_pieces
from carousel.model.errors import DataError

FORMATS = ("text", "csv", "parquet", "jsonl", "npz")
ENDINGS = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".npz": "npz",
}
MAX_DISTINCT = 10_000
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnStatistics:
    """One column; the numbers are None where it has none. `distinct` counts up to 10,000."""

    name: str
    type: str
    missing: int
    distinct: int
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A file: `rows` of a table, characters of a text or steps of an archive.

    Of a text alone: `lines`, and `symbols`, how many characters are different.
    """

    format: str
    rows: int
    columns: tuple[ColumnStatistics, ...] = ()
    lines: int = 0
    symbols: int = 0


def guess_format(file_name: str) -> str:
    """One of FORMATS, told by the file's name; raises DataError where it does not tell."""
    ending = Path(file_name).suffix.lower()
    if ending not in ENDINGS:
        raise DataError(
            f"the format of {file_name!r:.80} cannot be told by its name: "
            f"known endings are {', '.join(ENDINGS)}"
        )
    return ENDINGS[ending]


def describe(path: Path | str, format: str) -> Description:
    """Read the file once, in bounded memory; raises DataError when it cannot be read."""
    path = Path(path)
    if format not in FORMATS:
        raise DataError(f"the format must be one of {', '.join(FORMATS)}, got {format!r:.80}")
    if format == "text":
        return _describe_text(path)
    batches: Iterator[tuple[str, Any]]
    if format == "npz":
        archive = Archive(path)
        rows, batches = archive.rows, archive.batches()
        seen = {name: _Column(name, type) for name, type in archive.types.items()}
    else:
        table = Table(path, format)
        seen = {name: _Column(name, type) for name, type in table.types.items()}
        rows, batches = (
            0,
            (
                (name, batch[name])
                for _, batch in table.batches(table.names)
                for name in table.names
            ),
        )
    for name, column in batches:
        seen[name].add(column)
    if format != "npz":
        rows = next(iter(seen.values())).count
    if not rows:
        raise DataError("there are no rows")
    return Description(format=format, rows=rows, columns=tuple(c.result() for c in seen.values()))


def _describe_text(path: Path) -> Description:
    symbols: set[str] = set()
    characters = ends = 0
    last = ""
    for text in text_pieces(path):
        symbols.update(text)
        characters += len(text)
        ends += text.count("\n")
        last = text[-1:] or last
    if not characters:
        raise DataError("the text is empty")
    lines = ends + (last != "\n")
    return Description(format="text", rows=characters, lines=lines, symbols=len(symbols))


class _Column:
    """Statistics of one column that comes in parts; text is numbers until a cell is not."""

    def __init__(self, name: str, type: Any) -> None:
        self.count = 0
        self._name, self._type, self._missing = name, type, 0
        # What a column of text may be; its first values decide, a later cell may widen it.
        self._guesses: list[Any] = []
        self._told = not pa.types.is_string(type)
        self._distinct: set[Any] = set()
        self._values = _Moments()

    def add(self, column: Any) -> None:
        begin, self.count = self.count, self.count + len(column)
        column = plain(column)
        if not self._told and column.null_count < len(column):
            numbers = _casts(column, pa.float64())
            self._guesses = [pa.int64(), pa.float64()] if numbers else list(TIMES)
            self._told = True
        while self._guesses and not _casts(column, self._guesses[0]):
            self._guesses.pop(0)
        values = column.cast(self._guesses[0]) if self._guesses else column
        found = _as_numbers(values)
        missing = values.null_count
        if found is not None:
            missing = int(np.isnan(found).sum())
            self._refuse_huge(found, begin)
            self._values.add(found[np.isfinite(found)])
        self._missing += missing
        if len(self._distinct) < MAX_DISTINCT and not pa.types.is_nested(column.type):
            # Of text, so that a guess that fails later changes nothing.
            different = column.unique().drop_null()[:MAX_DISTINCT].to_pylist()
            self._distinct.update(value for value in different if value == value)

    def _refuse_huge(self, numbers: Array, begin: int) -> None:
        huge = np.isfinite(numbers) & (np.abs(numbers) > LARGEST)
        if huge.any():
            place = int(huge.argmax())
            raise DataError(
                f"a number must be between -{LARGEST:.3g} and {LARGEST:.3g}, the range of float32, "
                f"got {numbers[place]:g}",
                row=begin + place + 1,
                column=self._name,
            )

    def result(self) -> ColumnStatistics:
        type = self._guesses[0] if self._guesses else self._type
        known = self._values.count and _is_number(type)
        numbers = self._values.result() if known else {}
        return ColumnStatistics(
            name=self._name,
            type=_type_name(type),
            missing=self._missing,
            distinct=min(len(self._distinct), MAX_DISTINCT),
            **numbers,
        )


class _Moments:
    """Least, largest, mean and spread of numbers that come in parts (Chan et al. 1983)."""

    def __init__(self) -> None:
        self.count, self._mean, self._squares = 0, 0.0, 0.0
        self._low, self._high = np.inf, -np.inf

    def add(self, values: Array) -> None:
        if not len(values):
            return
        n, total, local = len(values), self.count + len(values), float(values.mean())
        away = local - self._mean
        self._squares += float(((values - local) ** 2).sum()) + away**2 * self.count * n / total
        self._mean += away * n / total
        self.count = total
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))

    def result(self) -> dict[str, float]:
        return {
            "minimum": self._low,
            "maximum": self._high,
            "mean": self._mean,
            "std": float(np.sqrt(self._squares / self.count)),
        }


def _is_number(type: Any) -> bool:
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    return any(check(type) for check in checks)


def _as_numbers(column: Any) -> Array | None:
    if not _is_number(column.type):
        return None
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float64)


def _casts(column: Any, type: Any) -> bool:
    try:
        column.cast(type)
    except pa.ArrowException:
        return False
    return True


def _type_name(type: Any) -> str:
    plain_names = {"double": "float64", "float": "float32", "halffloat": "float16"}
    return plain_names.get(str(type), str(type))

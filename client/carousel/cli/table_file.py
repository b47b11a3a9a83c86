"""A table in a file, CSV, JSON lines or Parquet, as columns of numbers, texts or times.

What is missing, a number or a time is told as in what jobs learn from.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carousel.errors import InputMismatch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PARQUET = (".parquet", ".pq")
JSON_LINES = (".jsonl", ".ndjson")
# How people write that there is no value.
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")


@dataclass(frozen=True, slots=True)
class TableFile:
    """Columns by name, all of one length; a value that is missing is None."""

    columns: Mapping[str, Sequence[Any]]

    def column(self, column: str) -> Sequence[Any]:
        if column not in self.columns:
            there = ", ".join(self.columns)
            raise InputMismatch(f"there is no column {column!r}, there are {there}")
        return self.columns[column]

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """[N], NaN where a value is missing."""
        import numpy as np

        values = self.column(column)
        found = [math.nan if value is None else number(value) for value in values]
        if None in found:
            row = found.index(None)
            raise InputMismatch(
                f"row {row + 1}, column {column!r}: {values[row]!r:.80} is not a number"
            )
        return np.asarray(found, np.float64)

    def texts(self, column: str) -> list[str]:
        """What says which sequence a row is of, or a token; none may be missing."""
        values = self.column(column)
        if None in values:
            raise InputMismatch(
                f"row {values.index(None) + 1}, column {column!r}: a value is missing"
            )
        return [name(value) for value in values]

    def moments(self, column: str) -> list[Any]:
        """Values by which rows can be put in order: all are numbers, or all are times."""
        values = self.column(column)
        found = [moment(value) for value in values]
        if None in found:
            row = found.index(None)
            raise InputMismatch(f"row {row + 1}, column {column!r}: {values[row]!r:.80} is no time")
        if len({(type(one), getattr(one, "tzinfo", None) is None) for one in found}) > 1:
            raise InputMismatch(
                f"column {column!r} must have numbers, or times all with or all without a zone"
            )
        return found


def read(path: Path, text: str | None = None) -> TableFile:
    """The table of a file; of `text`, where it has been read already, as CSV."""
    if path.suffix.lower() in PARQUET:
        return _parquet(path)
    if path.suffix.lower() in JSON_LINES:
        return _json_lines(path)
    return _csv(path.read_text(encoding="utf-8-sig") if text is None else text)


def name(value: Any) -> str:
    """A value as a label or a token."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def moment(value: Any) -> float | datetime | None:
    """A number as it is, ISO 8601 as a moment; a day is its first one."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, time())
    if value is None or isinstance(value, datetime):
        return value
    found = number(value)
    if found is not None:
        return found
    try:
        return datetime.fromisoformat(str(value))
    except ValueError:
        return None


def _csv(text: str) -> TableFile:
    rows = csv.reader(io.StringIO(text))
    header = next(rows, [])
    if len(set(header)) < len(header):
        raise InputMismatch(f"two columns have one name: {', '.join(header)}")
    columns: dict[str, list[str | None]] = {name: [] for name in header}
    for count, row in enumerate((row for row in rows if row), start=1):
        if len(row) != len(header):
            raise InputMismatch(
                f"row {count} must have {len(header)} cells as the heading, got {len(row)}"
            )
        for name, cell in zip(header, row, strict=True):
            columns[name].append(_present(cell))
    return TableFile(columns)


def _json_lines(path: Path) -> TableFile:
    names: dict[str, None] = {}
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputMismatch(f"row {len(rows) + 1} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise InputMismatch(f"row {len(rows) + 1} must be an object, got {row!r:.80}")
            names.update(dict.fromkeys(row))
            rows.append(row)
    return TableFile({name: [_present(row.get(name)) for row in rows] for name in names})


def _parquet(path: Path) -> TableFile:
    try:
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        raise ValueError(
            f"{path.name} can't be read: Parquet needs pyarrow; pip install pyarrow brings it"
        ) from None
    table = parquet.read_table(path)
    names, columns = table.column_names, table.columns
    return TableFile(
        {
            name: [_present(value) for value in column.to_pylist()]
            for name, column in zip(names, columns, strict=True)
        }
    )


def _present(value: Any) -> Any:
    if isinstance(value, str):
        value = value.strip()
        return None if value in MISSING else value
    if isinstance(value, float) and math.isnan(value):
        return None
    return value

"""A file of CSV, JSON lines or Parquet as record batches, so that it may be larger than memory."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from carousel.model.data import json_lines
from carousel.model.data.cells import is_number, present_texts
from carousel.model.data.json_lines import MOST_COLUMNS
from carousel.model.errors import DataError

Kind = Literal["number", "time", "text", "other"]

ROWS = 1 << 14
# Only with one thread Arrow knows the number of a wrong row.
ONE_THREAD = pa_csv.ReadOptions(use_threads=False, block_size=1 << 18)
# Rows by which it is told what the columns of a CSV file are.
SAMPLE = 1000


class Table:
    """The columns of a file, and its rows in batches; raises DataError when it cannot be read.

    Every column of CSV and of JSON lines is read as text: what is a number is decided by who asks
    for one, so that a wrong cell is refused with its row. Rows count from 1 behind the header.
    """

    def __init__(self, path: Path | str, format: str) -> None:
        self.path, self.format = Path(path), format
        with self._reading():
            if format == "csv":
                self._refuse_utf16()
                with pa_csv.open_csv(self.path, read_options=ONE_THREAD) as reader:
                    self.names: tuple[str, ...] = tuple(reader.schema.names)
            elif format == "jsonl":
                self.names = json_lines.names_of(self.path)
            else:
                schema = pa_parquet.read_schema(self.path)
                self.names = tuple(schema.names)
                self.types = {field.name: field.type for field in schema}
        self._check_names()
        if format != "parquet":
            self.types = dict.fromkeys(self.names, pa.string())
            self.kinds = self._guess_kinds()
        else:
            self.kinds = {name: _kind(type) for name, type in self.types.items()}

    def batches(self, names: Sequence[str]) -> Iterator[tuple[int, Any]]:
        """The number of a batch's first row, and the batch (a pyarrow.RecordBatch)."""
        row = 1
        with self._reading():
            for batch in self._batches(list(names)):
                yield row, batch
                row += batch.num_rows

    def of_kind(self, kind: Kind, *, but: Sequence[str]) -> tuple[str, ...]:
        """The columns of a kind, without some."""
        return tuple(n for n in self.names if self.kinds[n] == kind and n not in but)

    def check_columns(self, names: Sequence[str]) -> None:
        """Raise DataError for the first name that no column has."""
        for name in names:
            if name not in self.names:
                raise DataError(
                    f"there is no column {name!r}: there are {', '.join(self.names)}", column=name
                )

    def _batches(self, names: list[str]) -> Iterator[Any]:
        if self.format == "csv":
            with pa_csv.open_csv(
                self.path,
                read_options=ONE_THREAD,
                parse_options=pa_csv.ParseOptions(newlines_in_values=True),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(self.names, pa.string()), include_columns=names
                ),
            ) as reader:
                yield from reader
        elif self.format == "jsonl":
            yield from json_lines.batches(self.path, names)
        else:
            # A row group may be the whole file: it must not be read ahead.
            with pa_parquet.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False) as file:
                for batch in file.iter_batches(ROWS, columns=names, use_threads=False):
                    batch.validate(full=True)  # what calls itself text may be any bytes
                    yield batch

    def _check_names(self) -> None:
        if not self.names:
            what = "columns" if self.format == "parquet" else "rows"
            raise DataError(f"there are no {what}")
        if len(self.names) > MOST_COLUMNS:
            raise DataError(
                f"there are {len(self.names):,} columns, a table has at most {MOST_COLUMNS:,}"
            )
        twice = next((name for name, count in Counter(self.names).items() if count > 1), None)
        if twice is not None:
            raise DataError(f"two columns have the name {twice!r}: names must differ", column=twice)
        if self.format == "csv" and all(is_number(name) for name in self.names):
            raise DataError(
                f"the first line must have the names of the columns, "
                f"got {', '.join(self.names)!r:.80}"
            )

    def _guess_kinds(self) -> dict[str, Kind]:
        first = next((batch for _, batch in self.batches(self.names)), None)
        if first is None:
            raise DataError("there are no rows")
        return {name: _guess(present_texts(first[name][:SAMPLE])) for name in self.names}

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = error.strerror or error
            raise DataError(f"the file cannot be read: {why}") from None
        except UnicodeDecodeError:
            raise DataError(f"the file is not {self.format}: it is not UTF-8") from None
        except pa.ArrowException as error:
            raise self._refusal(str(error)) from None

    def _refuse_utf16(self) -> None:
        """Which spreadsheets write, and Arrow takes for bytes of no meaning."""
        with self.path.open("rb") as file:
            if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise DataError("the file is UTF-16: save it as UTF-8")

    def _refusal(self, message: str) -> DataError:
        """Arrow says `In CSV column #1: Row #2: ...` and counts the header as row 1."""
        row, column = (re.search(pattern, message) for pattern in (r"Row #(\d+)", r"column #(\d+)"))
        reason = message.split(": ", 1)[-1].split(f"Row #{row[1]}: ")[-1] if row else message
        return DataError(
            f"the file is not {self.format}: {reason}"[:300],
            row=int(row[1]) - 1 if row else None,
            column=self.names[int(column[1])] if column else None,
        )


def _kind(type: Any) -> Kind:
    if pa.types.is_dictionary(type):
        type = type.value_type
    is_, number = pa.types, (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    if any(check(type) for check in number) or is_.is_boolean(type) or is_.is_null(type):
        return "number"
    if is_.is_timestamp(type) or is_.is_date(type):
        return "time"
    return "text" if is_.is_string(type) or is_.is_large_string(type) else "other"


def _guess(texts: Sequence[str]) -> Kind:
    # A wrong cell among numbers must not turn the column into text: it is refused when it is read.
    numbers = sum(is_number(text) for text in texts)
    return "number" if numbers >= 0.9 * len(texts) else "text"

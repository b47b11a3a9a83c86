"""The cells of a table as numbers, times or codes; a wrong one is refused with row and column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from carousel.model.data.corpus import Array
from carousel.model.errors import DataError

# How people write that there is no value.
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
LARGEST = float(np.finfo(np.float32).max)
# How times are written: ISO 8601, all with a time zone or all without.
TIMES = [pa.timestamp(unit, zone) for zone in (None, "UTC") for unit in ("us", "ns")]


def is_number(text: str) -> bool:
    """Whether a number is written here."""
    try:
        pc.cast(pa.scalar(text.strip()), pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def present_texts(column: Any) -> list[str]:
    """The values of a column of text that are not missing."""
    texts: list[str] = plain(column).drop_null().to_pylist()
    return texts


def numbers(column: Any, name: str, row: int) -> Array:
    """A column as float64 [n], NaN where it has no value; `row` is the number of its first row.

    Raises DataError for text, for Inf and for what float32 cannot hold.
    """
    column = plain(column)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    try:
        values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        i = next(
            i for i, cell in enumerate(column) if cell.is_valid and not is_number(cell.as_py())
        )
        raise DataError(
            f"{column[i].as_py()!r:.80} is not a number", row=row + i, column=name
        ) from None
    except pa.ArrowException:
        raise DataError(f"{column.type} is not a type of numbers", column=name) from None
    if column.null_count:
        values = np.where(column.is_null().to_numpy(zero_copy_only=False), np.nan, values)
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(np.abs(values) > LARGEST)
    if len(wrong):
        i = int(wrong[0])
        raise DataError(
            f"numbers must be finite and at most 3.4e38, got {values[i]:g}",
            row=row + i,
            column=name,
        )
    return np.asarray(values, np.float64)


class Times:
    """Reads a column of times, all written in one way, as numbers that are in the same order."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._type: Any = None

    def read(self, column: Any, row: int) -> Array:
        """float64 [n] of numbers, or int64 [n] of timestamps; DataError for what is no time."""
        column = plain(column)
        _refuse_missing(column, "a time is missing", row, self._name)
        if self._type is None:
            self._type = self._guess(column, row)
        if self._type is None:
            return numbers(column, self._name, row)
        try:
            return np.asarray(column.cast(self._type).cast(pa.int64()).to_numpy())
        except pa.ArrowInvalid:
            i = next(i for i, cell in enumerate(column) if not _casts(cell, self._type))
            raise self._refusal(
                column[i], row + i, f" like the ones before ({self._type})"
            ) from None

    def _guess(self, column: Any, row: int) -> Any:
        if pa.types.is_timestamp(column.type):
            return column.type
        if pa.types.is_date(column.type):
            return TIMES[0]
        if pa.types.is_integer(column.type):
            return pa.int64()
        if not pa.types.is_string(column.type):
            return None
        if is_number(column[0].as_py()):
            return pa.int64() if _is_long(column[0]) else None
        found = next((type for type in TIMES if _casts(column[0], type)), None)
        if found is None:
            raise self._refusal(column[0], row)
        return found

    def _refusal(self, cell: Any, row: int, more: str = "") -> DataError:
        return DataError(
            f"{cell.as_py()!r:.80} is no time{more}: numbers or ISO 8601 can be read, "
            "like 2024-05-01 or 2024-05-01 10:30:00",
            row=row,
            column=self._name,
        )


class Codes:
    """Numbers the different values of a column as they come."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._codes: dict[str, int] = {}

    @property
    def values(self) -> tuple[str, ...]:
        """The value of each code."""
        return tuple(self._codes)

    def read(self, column: Any, row: int) -> Array:
        """int32 [n]; raises DataError where a value is missing, or of a type that has no text."""
        column = plain(column)
        _refuse_missing(column, "a value is missing", row, self._name)
        try:
            encoded = column.dictionary_encode()
            names = encoded.dictionary.cast(pa.string()).to_pylist()
        except pa.ArrowException:
            raise DataError(
                f"{column.type} is not a type of names or labels: numbers and text are",
                column=self._name,
            ) from None
        codes = [self._codes.setdefault(name, len(self._codes)) for name in names]
        return np.asarray(np.array(codes, np.int32)[encoded.indices.to_numpy()])


def plain(column: Any) -> Any:
    """Without a dictionary; text without blanks around it and null where it says that it is."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_large_string(column.type):
        column = column.cast(pa.string())
    if pa.types.is_string(column.type):
        column = pc.call_function("utf8_trim_whitespace", [column])
        missing = pc.call_function("is_in", [column], pc.SetLookupOptions(pa.array(MISSING)))
        column = pc.call_function("if_else", [missing, pa.scalar(None, pa.string()), column])
    return column


def _casts(cell: Any, type: Any) -> bool:
    try:
        pc.cast(cell, type)
    except pa.ArrowInvalid:
        return False
    return True


def _is_long(cell: Any) -> bool:
    """Whether it is a whole number that float64 cannot tell from its neighbours: nanoseconds."""
    return _casts(cell, pa.int64()) and abs(int(cell.as_py())) > 2**53


def _refuse_missing(column: Any, message: str, row: int, name: str) -> None:
    missing = column.is_null(nan_is_null=True)
    if missing.true_count:
        place = int(np.flatnonzero(missing.to_numpy(zero_copy_only=False))[0])
        raise DataError(message, row=row + place, column=name)

"""JSON lines, an object a line, as batches of text: what is a number is decided by who asks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from carousel.model.errors import DataError

ROWS = 1 << 14
# A batch ends early when its values take more, at CELL_BYTES besides their characters.
BATCH_BYTES, CELL_BYTES = 1 << 21, 64
LONGEST_LINE = 1 << 24
MOST_COLUMNS = 10_000
WORDS = {True: "true", False: "false"}

# Numbers stay as they are written: no digit of a large one is lost.
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)


def names_of(path: Path) -> tuple[str, ...]:
    """The keys of all lines, in the order in which they first appear; raises DataError."""
    names: dict[str, None] = {}
    for row, found in objects(path):
        new = [name for name in found if name not in names]
        if not all(map(_is_unicode, new)):
            raise DataError("half of a surrogate pair, in a key, is no character", row=row)
        names.update(dict.fromkeys(new))
        if len(names) > MOST_COLUMNS:
            raise DataError(f"there are more than {MOST_COLUMNS:,} different keys", row=row)
    return tuple(names)


def batches(path: Path, names: Sequence[str]) -> Iterator[Any]:
    """pyarrow.RecordBatch of columns of text, null where a line has no value; raises DataError."""
    columns: list[list[str | None]] = [[] for _ in names]
    first, size = 1, 0
    for row, found in objects(path):
        for name, column in zip(names, columns, strict=True):
            value = found.get(name)
            if value is not None and not isinstance(value, str):
                value = _text(value, row, name)
            column.append(value)
            size += CELL_BYTES + len(value or "")
        if row - first + 1 == ROWS or size > BATCH_BYTES:
            yield _batch(names, columns, first)
            columns, first, size = [[] for _ in names], row + 1, 0
    if columns and columns[0]:
        yield _batch(names, columns, first)


def objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each row, from 1, and its object; lines with nothing on them are no rows."""
    row = 0
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE + 1):
            if row == 0:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.isspace() or not line:
                continue
            row += 1
            if len(line) > LONGEST_LINE:
                raise DataError(f"a line must have at most {LONGEST_LINE:,} bytes", row=row)
            yield row, _object(line, row)


def _object(line: bytes, row: int) -> dict[str, Any]:
    try:
        found = _DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        raise DataError(f"byte 0x{line[error.start]:02x} is not UTF-8", row=row) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"the line is not JSON: {error}"[:300], row=row) from None
    if not isinstance(found, dict):
        shown = line.decode().strip()
        raise DataError(f"a line must be an object, as in {{...}}, got {shown!r:.80}", row=row)
    return found


def _text(value: object, row: int, name: str) -> str:
    if isinstance(value, bool):
        return WORDS[value]
    kind = "a list" if isinstance(value, list) else "an object"
    raise DataError(
        f"a value must be a number, a text, true, false or null, got {kind}", row=row, column=name
    )


def _batch(names: Sequence[str], columns: list[list[str | None]], first: int) -> Any:
    try:
        arrays = [pa.array(column, pa.string()) for column in columns]
    except UnicodeEncodeError:
        row, name = next(
            (first + place, name)
            for name, column in zip(names, columns, strict=True)
            for place, value in enumerate(column)
            if value is not None and not _is_unicode(value)
        )
        message = "half of a surrogate pair is no character"
        raise DataError(message, row=row, column=name) from None
    return pa.RecordBatch.from_arrays(arrays, names=list(names))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

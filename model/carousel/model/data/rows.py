"""Rows of a table on disk as numbers, put in the order of their sequences and times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from carousel.model.data.cells import Codes, Times, numbers
from carousel.model.data.corpus import Array, CorpusWriter
from carousel.model.data.tables import Table
from carousel.model.errors import DataError

CHUNK = 1 << 14


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What was read: `starts` int64 [S + 1] of the sequences, `names` [S], `values` of each code.

    `missing` int64 [D] counts cells without a value; `order` [N] is None or the place that each row
    had in the file.
    """

    starts: Array
    names: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]
    missing: Array
    order: Array | None

    def row(self, place: int) -> int:
        """The number of a row in the file, from 1."""
        return int(place if self.order is None else self.order[place]) + 1


def read_rows(
    table: Table,
    writer: CorpusWriter,
    columns: Sequence[str],
    *,
    group: str,
    time: str,
    coded: Mapping[str, str],
) -> Rows:
    """Write `columns` as float32 [N, D] to the array "steps" (NaN: missing), `time` to "time" and
    each column of `coded` (array: column) as int32 [N], in the order of `group` and `time`.

    Groups stay in the order in which they appear. Raises DataError for a wrong cell, for no rows at
    all, and for two rows of one group at one time.
    """
    times, groups = Times(time), Codes(group)
    codes = {name: Codes(column) for name, column in coded.items()}
    missing, count, sorted_ = np.zeros(len(columns), np.int64), 0, True
    last: tuple[Array, ...] | None = None
    needed = [*columns, *coded.values(), *(c for c in (group, time) if c)]
    for row, batch in table.batches(needed):
        if not batch.num_rows:
            continue
        if columns:
            values = np.stack([numbers(batch[name], name, row) for name in columns], axis=1)
            missing += np.isnan(values).sum(axis=0)
            writer.append("steps", values.astype(np.float32))
        for name, code in codes.items():
            writer.append(name, code.read(batch[coded[name]], row))
        keys = []
        if group:
            keys.append(groups.read(batch[group], row))
            writer.append("group", keys[-1])
        if time:
            keys.append(times.read(batch[time], row))
            writer.append("time", keys[-1])
        sorted_ = sorted_ and _in_order(last, keys)
        last = tuple(key[-1:] for key in keys)
        count += batch.num_rows
    if not count:
        raise DataError("there are no rows")
    order = None if sorted_ else _sort(writer, group, time, [*codes, *(["steps"] * bool(columns))])
    starts = _starts(writer.map("group")) if group else np.array([0, count])
    names = groups.values or ("",)
    rows = Rows(starts, names, {n: c.values for n, c in codes.items()}, missing, order)
    if time:
        _check_times(writer.map("time"), rows, time, group)
    writer.drop("group")
    return rows


def _in_order(last: tuple[Array, ...] | None, keys: list[Array]) -> bool:
    """Whether keys (the first counts most) do not fall."""
    if not keys:
        return True
    if last is not None:
        keys = [np.concatenate(pair) for pair in zip(last, keys, strict=True)]
    steps = [(key[1:] > key[:-1], key[1:] == key[:-1]) for key in keys]
    rises, same = steps[-1]
    fine = rises | same
    for rises, same in reversed(steps[:-1]):
        fine = rises | (same & fine)
    return bool(fine.all())


def _sort(writer: CorpusWriter, group: str, time: str, names: list[str]) -> Array:
    """Only the keys are sorted in memory; what they belong to moves in chunks."""
    present = [name for name, column in (("time", time), ("group", group)) if column]
    order = np.lexsort([writer.map(name) for name in present])
    for name in [*present, *names]:
        values = writer.map(name)
        for i in range(0, len(order), CHUNK):
            writer.append("sorted", values[order[i : i + CHUNK]])
        writer.rename("sorted", name)
    return order


def _starts(groups: Array) -> Array:
    found = [
        i + 1 + np.flatnonzero(np.diff(groups[i : i + CHUNK + 1]))
        for i in range(0, len(groups), CHUNK)
    ]
    return np.concatenate([[0], *found, [len(groups)]]).astype(np.int64)


def _check_times(times: Array, rows: Rows, time: str, group: str) -> None:
    for i in range(0, len(times), CHUNK):
        same = i + 1 + np.flatnonzero(np.diff(times[i : i + CHUNK + 1]) == 0)
        same = np.setdiff1d(same, rows.starts)
        if len(same):
            first, second = sorted((rows.row(same[0] - 1), rows.row(same[0])))
            which = f" of one {group}" if group else ""
            raise DataError(
                f"the time of row {first} again: rows{which} must have different times",
                row=second,
                column=time,
            )

"""How datasets look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from carousel.cli import tables
from carousel.cli.quantities import count, size, when

if TYPE_CHECKING:
    from rich.console import RenderableType

    from carousel.client import Column, Dataset

_NUMBERS = ("missing", "minimum", "maximum", "mean", "std", "distinct")
_MOST_DISTINCT = 10_000


def datasets(listed: Sequence[Dataset]) -> RenderableType:
    if not listed:
        return "There are no datasets: carousel datasets upload FILE brings one in."
    rows = [
        (
            tables.owned(one),
            str(one.format),
            tables.state(one.state),
            size(one.size_bytes),
            count(one.rows),
            count(one.jobs),
            when(one.create_time),
            one.file_name,
        )
        for one in listed
    ]
    columns = ("dataset", "format", "state", "size", "rows", "jobs", "came in", "file")
    return tables.table(*columns, rows=rows, numbers=("size", "rows", "jobs"))


def dataset(one: Dataset) -> RenderableType:
    """Everything about a dataset, its columns below."""
    pairs: dict[str, RenderableType] = {
        "dataset": tables.owned(one),
        "state": tables.state(one.state, _missing(one)),
        "format": str(one.format),
        "size": size(one.size_bytes),
        **_size(one),
        "jobs": count(one.jobs),
        "came in": when(one.create_time),
        "file": one.file_name or "none",
        "sha256": one.sha256,
    }
    if not one.columns:
        return tables.facts(pairs)
    from rich.console import Group

    rows = [(column.name, column.type, *_statistics(column)) for column in one.columns]
    table = tables.table("column", "type", *_NUMBERS, rows=rows, numbers=_NUMBERS)
    return Group(tables.facts(pairs), "", table)


def _size(one: Dataset) -> dict[str, RenderableType]:
    if one.text is None:
        return {"rows": count(one.rows)}
    return {
        "characters": count(one.text.characters),
        "lines": count(one.text.lines),
        "symbols": f"{count(one.text.symbols)} different ones",
    }


def deleted(done: Mapping[str, str]) -> RenderableType:
    return f"{done['deleted']} is deleted"


def _missing(one: Dataset) -> str:
    if one.received_bytes >= one.size_bytes:
        return ""
    return f"{size(one.received_bytes)} have come"


def _statistics(column: Column) -> tuple[str, ...]:
    numbers = (column.minimum, column.maximum, column.mean, column.std)
    many = "+" if column.distinct >= _MOST_DISTINCT else ""
    return (
        count(column.missing),
        *("" if number is None else f"{number:.4g}" for number in numbers),
        f"{count(column.distinct)}{many}",
    )

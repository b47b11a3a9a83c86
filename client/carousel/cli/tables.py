"""Tables: the one look that all of them share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

NUMBER = "right"
STATE_STYLES = {
    "ready": "green",
    "active": "green",
    "running": "green",
    "succeeded": "green",
    "loading": "yellow",
    "preparing": "yellow",
    "uploading": "yellow",
    "cancelling": "yellow",
    "failed": "bold red",
    "quarantined": "bold red",
    "ended": "dim",
    "unloaded": "dim",
    "queued": "dim",
    "cancelled": "dim",
}


class Owned(Protocol):
    """Something of a tenant's."""

    @property
    def id(self) -> str: ...
    @property
    def tenant(self) -> str: ...


def owned(one: Owned) -> str:
    """An id, with the tenant before it where that is not the operator."""
    return f"{one.tenant}/{one.id}" if one.tenant else one.id


def table(
    *columns: str, rows: Iterable[Iterable[RenderableType]], numbers: Iterable[str] = ()
) -> Table:
    """A table; the columns in `numbers` stand to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False)
    right = set(numbers)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        # Text, not str: a name with brackets must not be taken for markup.
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def facts(pairs: Mapping[str, RenderableType]) -> Table:
    """Names on the left, what they are on the right."""
    from rich.table import Table
    from rich.text import Text

    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for name, value in pairs.items():
        made.add_row(name, Text(value) if isinstance(value, str) else value)
    return made


def state(word: str, note: str = "") -> RenderableType:
    """A state in its colour, and why."""
    from rich.text import Text

    text = Text(word, style=STATE_STYLES.get(word, ""))
    return text.append(f" ({note})", style="dim") if note else text

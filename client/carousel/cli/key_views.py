"""How API keys look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from carousel.cli import tables
from carousel.cli.quantities import when

if TYPE_CHECKING:
    from rich.console import RenderableType

Key = Mapping[str, Any]


def keys(listed: Sequence[Key]) -> RenderableType:
    if not listed:
        return "There are no keys."
    rows = [
        (
            one["id"],
            one["name"],
            one["tenant"] or "(operator)",
            ", ".join(one["scopes"]),
            when(one["create_time"]),
            _end(one["expire_time"]),
        )
        for one in listed
    ]
    return tables.table("id", "name", "tenant", "scopes", "made", "ends", rows=rows)


def made(key: Key) -> None:
    """The key alone on standard output, so that `export CAROUSEL_TOKEN=$(...)` works."""
    import sys

    print(key["key"])
    print(
        f"This key has the id {key['id']} and is shown this once; a program gives it as "
        "CAROUSEL_TOKEN.",
        file=sys.stderr,
    )


def revoked(key: Key) -> RenderableType:
    return f"{key['id']} is revoked."


def _end(moment: datetime | None) -> str:
    if moment is None:
        return "never"
    return "ended" if moment <= datetime.now(UTC) else when(moment)

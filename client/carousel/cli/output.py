"""Output: a value as JSON for programs, or through its view for people."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

View = Callable[[Any], "RenderableType | None"]
"""What people see of a value. A view that gets an iterator writes by itself and returns None."""


def show(value: Any, *, view: View, as_json: bool) -> None:
    """Write to standard output. An iterator is one JSON object a line, as its items come."""
    if as_json and isinstance(value, Iterator):
        for item in value:
            print(json.dumps(plain(item)), flush=True)
    elif as_json:
        print(json.dumps(plain(value), indent=2))
    elif (seen := view(value)) is not None:
        console().print(seen)


def console(*, elsewhere: int = 1000) -> Console:
    """Standard output: colours on a terminal only; NO_COLOR is honoured by rich itself.

    Elsewhere than on a terminal lines are as long as they must be: a table that was cut to 80
    columns is of no use to grep. What fills its lines says how wide it is `elsewhere`.
    """
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else elsewhere, highlight=False)


def plain(value: Any) -> Any:
    """What JSON can hold: times as RFC 3339, durations in seconds, arrays as lists.

    Of a dataclass, the fields that its repr shows.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.hex()
    if dataclasses.is_dataclass(value):
        names = [f.name for f in dataclasses.fields(value) if f.repr]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # a numpy array; numpy itself need not be there
        return plain(value.tolist())
    return [plain(item) for item in value]

"""Exit codes, and how an error is shown: one line for people, one object for programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from carousel.errors import CarouselError

OK, FAILED, USAGE, UNREACHABLE, CANNOT_START, INTERRUPTED = 0, 1, 2, 3, 4, 130

EPILOG = (
    "Exit codes: 0 done; 1 the request failed; 2 wrong usage; 3 the server can't be reached; "
    "4 the server can't start; 130 interrupted."
)
_HINT = "carousel serve starts a server here; --server or CAROUSEL_TARGET names another"
_TLS_HINT = "--ca FILE says whom to trust, --cert FILE and --key FILE show who calls"


def fail(error: CarouselError, *, as_json: bool) -> NoReturn:
    """Leave over an error of the catalogue."""
    from carousel.errors import ServerUnreachable, TlsFailed

    unreachable = isinstance(error, ServerUnreachable)
    if as_json:
        _write_json(
            {
                "reason": error.reason,
                "code": error.code.name,
                "message": error.message,
                "field": error.field or None,
                "retry_after": error.retry_after,
                "metadata": error.metadata,
            }
        )
    else:
        _write(str(error))
        if unreachable:
            print(_TLS_HINT if isinstance(error, TlsFailed) else _HINT, file=sys.stderr)
    raise typer.Exit(UNREACHABLE if unreachable else FAILED)


def leave(code: int, message: str, *, as_json: bool = False) -> NoReturn:
    """Leave over something that no server said."""
    if as_json:
        _write_json({"message": message})
    else:
        _write(message)
    raise typer.Exit(code)


def _write_json(error: dict[str, Any]) -> None:
    print(json.dumps({"error": error}), file=sys.stderr)


def _write(message: str) -> None:
    from rich.console import Console
    from rich.text import Text

    label = Text("error: ", style="bold red")
    # soft_wrap: a line that is searched for, or piped, stays one line.
    Console(stderr=True).print(label + Text(message), soft_wrap=True)

"""A flag of `carousel serve`: its help ends with what holds without it."""

from functools import partial
from typing import Any

import typer


def flag(panel: str, default: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=f"{text} Default: {default}.", rich_help_panel=panel, **more)


listening = partial(flag, "Listening")

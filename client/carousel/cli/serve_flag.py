"""A flag of `carousel serve`: its help ends with what holds without it."""

from typing import Any

import typer


def flag(panel: str, default: str, text: str, **more: Any) -> Any:
    return typer.Option(help=f"{text} Default: {default}.", rich_help_panel=panel, **more)

"""`carousel trace`: what the gates do while a network reads a sequence, drawn and in figures.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carousel.cli.arguments import ModelName
from carousel.cli.remote import remote
from carousel.cli.trace_view import Traced, drawn, show, traced

if TYPE_CHECKING:
    from carousel.client import Client


def register(app: typer.Typer) -> None:
    remote(app, view=show)(trace)


def trace(
    client: "Client",
    model: ModelName,
    text: Annotated[str, typer.Argument(help="What to read; or --file.")] = "",
    file: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Read this, as in carousel predict.")
    ] = None,
    session: Annotated[
        str | None, typer.Option(help="Begin from this session's state, which does not move.")
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Draw it into this picture, in 16 groups of units."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Draw all of it into this page; hover shows values."),
    ] = None,
) -> Traced:
    """Show what every gate does while the network reads a sequence; --json gives all values."""
    from carousel.cli import inputs

    if bool(text) == (file is not None):
        raise typer.BadParameter("give either a text or --file")
    begin = model if session is None else f"sessions/{session.removeprefix('sessions/')}"
    version = client.get_version(model)
    if file is None:
        [values] = client.tokenize(version.name, [text])
    else:
        [sequence, *more] = inputs.read(
            file, version.config, lambda texts: client.tokenize(version.name, texts)
        )
        if more:
            raise typer.BadParameter(f"{file} has {len(more) + 1} sequences, and one can be traced")
        values = sequence.values
    found = traced(client.trace(begin, values), values, version.config)
    return drawn(found, png=png, html=html)

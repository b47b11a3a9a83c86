"""`carousel trace`: what the gates do while a network reads a sequence, in figures.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carousel.cli import tables
from carousel.cli.arguments import ModelName
from carousel.cli.remote import remote

if TYPE_CHECKING:
    from rich.console import RenderableType

    from carousel.client import Client, Trace

_GATES = ("input", "forget", "output", "reset", "update")
# A gate this close to 0 or 1 hardly passes a gradient.
_SATURATED = 0.05


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
) -> "Trace":
    """Show what every gate does while the network reads a sequence; --json gives all values."""
    from carousel.cli import inputs

    if bool(text) == (file is not None):
        raise typer.BadParameter("give either a text or --file")
    begin = model if session is None else f"sessions/{session.removeprefix('sessions/')}"
    if file is None:
        return client.trace(begin, text)
    version = client.get_version(model)
    [sequence, *more] = inputs.read(
        file, version.config, lambda texts: client.tokenize(version.name, texts)
    )
    if more:
        raise typer.BadParameter(f"{file} has {len(more) + 1} sequences, and one can be traced")
    return client.trace(begin, sequence.values)


def show(one: "Trace") -> "RenderableType":
    """A row for each layer and each of its values, over all steps and units."""
    import numpy as np

    columns = ("mean", "spread", "least", "most", "saturated")
    rows = []
    for number, layer in enumerate(one.layers):
        for name, values in layer.items():  # [T, H]
            near_end = (values < _SATURATED) | (values > 1 - _SATURATED)
            figures = (values.mean(), values.std(), values.min(), values.max())
            rows.append(
                (
                    str(number),
                    name,
                    *(f"{figure:.3f}" for figure in figures),
                    f"{np.mean(near_end):.0%}" if name in _GATES else "",
                )
            )
    return tables.table("layer", "value", *columns, rows=rows, numbers=columns)

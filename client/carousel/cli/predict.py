"""`carousel predict`: whole sequences from files, outputs as a table, CSV or JSON.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carousel.cli import outputs_view
from carousel.cli.arguments import ModelName
from carousel.cli.outputs_view import Outputs
from carousel.cli.remote import remote

if TYPE_CHECKING:
    from carousel.client import Client

FILES_HELP = (
    "Features: CSV, a step a line, blank lines between sequences; .npy with [T, D] or [N, T, D]; "
    ".npz. Tokens: text, or .npy with [T]. - is standard input."
)
Csv = Annotated[bool, typer.Option("--csv", help="CSV on standard output.")]


def register(app: typer.Typer) -> None:
    remote(app, view=outputs_view.show)(predict)


def predict(
    client: "Client",
    model: ModelName,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=FILES_HELP)],
    last: Annotated[
        bool, typer.Option("--last", help="Only the output of each sequence's last step.")
    ] = False,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of a CSV with a heading, in the model's order; once for each.",
        ),
    ] = None,
    sequence: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column that says which sequence a row is of."),
    ] = None,
    as_csv: Csv = False,
) -> Outputs:
    """Run whole sequences from the model's initial state; nothing is kept."""
    from carousel.cli import inputs

    version = client.get_version(model)
    sequences = [
        one for file in files for one in inputs.read(file, version.config, column or (), sequence)
    ]
    if last:
        rows = [row[None] for row in client.predict(version.name, sequences, outputs="last")]
        begins = [len(one) - 1 for one in sequences]
    else:
        rows = client.predict(version.name, sequences)
        begins = [0] * len(rows)
    return Outputs(version.name, rows, begins, version.config, as_csv)

"""`carousel predict`: whole sequences from files, outputs as a table, CSV or JSON.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carousel.cli import outputs_view
from carousel.cli.arguments import ModelName
from carousel.cli.outputs_view import Outputs
from carousel.cli.remote import remote

if TYPE_CHECKING:
    from carousel.client import Client

FILES_HELP = (
    "Features: CSV, Parquet or JSON lines, a step a row; .npy with [T, D] or [N, T, D]; .npz. "
    "Tokens: text, a column of a table, or .npy with [T]. - is standard input."
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
            help="Column to read, once for each in the model's order; unset: as it learned.",
        ),
    ] = None,
    sequence: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column that says which sequence a row is of."),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column that orders the rows; unset: they are."),
    ] = None,
    as_csv: Csv = False,
) -> Outputs:
    """Run whole sequences from the model's initial state; nothing is kept."""
    from carousel.cli import inputs, whole_sequences

    version = client.get_version(model)
    pick = inputs.Pick(column or (), sequence, time)

    def tokenize(texts: list[str]) -> list[Any]:
        return whole_sequences.tokenize(client, version.name, texts)

    sequences = [one for file in files for one in inputs.read(file, version.config, tokenize, pick)]
    rows = whole_sequences.predict(client, version, [one.values for one in sequences], last=last)
    begins = [len(one.values) - 1 if last else 0 for one in sequences]
    names = [one.name or str(place) for place, one in enumerate(sequences)]
    return Outputs(version.name, names, rows, begins, version.config, as_csv)

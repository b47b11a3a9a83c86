"""`carousel datasets`: what jobs learn from.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carousel.cli import dataset_views as views
from carousel.cli.arguments import DatasetId
from carousel.cli.remote import remote
from carousel.cli.upload_bar import upload_progress

if TYPE_CHECKING:
    from carousel.client import Client, Dataset

app = typer.Typer(help="Datasets: what jobs learn from.", no_args_is_help=True)


@remote(app, view=views.datasets, name="list")
def list_(client: "Client") -> "list[Dataset]":
    """List datasets."""
    return list(client.datasets.list())


@remote(app, view=views.dataset)
def show(client: "Client", dataset: DatasetId) -> "Dataset":
    """Describe a dataset, with the statistics of its columns."""
    return client.datasets.get(dataset)


@remote(app, view=views.dataset)
def upload(
    client: "Client",
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="Text, CSV, Parquet, JSON lines or .npz of numpy."
        ),
    ],
    dataset_id: Annotated[
        str | None, typer.Option("--id", help="Its id; unset: of the file's name and checksum.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="text, csv, parquet, jsonl or npz; unset: the file's name tells."),
    ] = None,
) -> "Dataset":
    """Send a file; one that broke off goes on where it stood, one that is there stays."""
    with upload_progress() as progress:
        return client.datasets.upload(file, id=dataset_id, format=format, progress=progress)


@remote(app, view=views.deleted)
def delete(client: "Client", dataset: DatasetId) -> dict[str, str]:
    """Delete a dataset that no unfinished job needs."""
    client.datasets.delete(dataset)
    return {"deleted": dataset}

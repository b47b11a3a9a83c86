"""`carousel train`: from a file to a model that serves.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carousel.cli import run, train_options, train_task, train_use
from carousel.cli.connection import Server
from carousel.cli.remote import remote
from carousel.cli.upload_bar import upload_progress

if TYPE_CHECKING:
    from carousel.client import Client, Dataset, Job

_PANEL = "Job"
_FILE_HELP = (
    "Text, CSV, Parquet, JSON lines or .npz of numpy; or datasets/ID of one that is on the server."
)


def _frame(
    file: Annotated[str, typer.Argument(metavar="FILE", help=_FILE_HELP)],
    name: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model that it becomes; unset: the file's name."),
    ] = None,
    alias: Annotated[
        str | None,
        typer.Option(help="Moves to the new version, such as stable.", rich_help_panel=_PANEL),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Only if its test loss is lower than that of the alias by this share.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that share the work.", rich_help_panel=_PANEL)
    ] = 1,
    priority: Annotated[
        int, typer.Option(min=-100, max=100, help="Higher goes first.", rich_help_panel=_PANEL)
    ] = 0,
    job_id: Annotated[
        str | None,
        typer.Option("--id", help="The job's id; unset: made up.", rich_help_panel=_PANEL),
    ] = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", help="Only make the job; do not follow it.", rich_help_panel=_PANEL
        ),
    ] = False,
    validate_only: Annotated[
        bool,
        typer.Option(
            "--validate-only", help="Check everything, make no job.", rich_help_panel=_PANEL
        ),
    ] = False,
) -> None:
    """What is not of the recipe; only the signature is used."""


def register(app: typer.Typer) -> None:
    """Add the command, with the options of both signatures."""

    def command(client: "Client", **given: Any) -> "run.Run | Job":
        return train(client, **{name: given.pop(name) for name in frame}, options=given)

    frame = inspect.signature(_frame).parameters
    recipe = inspect.signature(train_options.options).parameters
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*frame.values(), *recipe.values())]
    client = inspect.Parameter("client", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    command.__doc__ = "Train a model from a file, watch it learn, and serve it."
    vars(command)["__signature__"] = inspect.Signature([client, *parameters])
    remote(app, view=_show, name="train", address=Server)(command)


def train(
    client: "Client",
    file: str,
    *,
    name: str | None,
    alias: str | None,
    margin: float | None,
    workers: int,
    priority: int,
    job_id: str | None,
    detach: bool,
    validate_only: bool,
    options: dict[str, Any],
) -> "run.Run | Job":
    """Upload, make the job, and follow it unless `detach` or `validate_only`."""
    path = Path(file)
    is_there = file.startswith("datasets/") and not path.exists()
    if not is_there and not path.is_file():
        raise typer.BadParameter(f"there is no file {file}")
    found = client.datasets.get(file) if is_there else None
    shown = Path(found.file_name or f"data.{found.format}") if found else path
    recipe = train_options.make(train_task.guess(shown, options), _without_task(options))
    model = name or _model_id(shown)
    dataset = found or _upload(client, path)
    job = client.jobs.create(
        recipe=recipe,
        dataset=dataset.name,
        model=model,
        alias=alias,
        margin=margin,
        workers=workers,
        priority=priority,
        id=job_id,
        validate_only=validate_only,
    )
    if validate_only:
        from carousel.cli.checked_job import CheckedJob

        return CheckedJob.of(job)
    if detach:
        return job
    return run.Run(client, job, use=lambda done: train_use.commands(client, done, dataset, path))


def _upload(client: "Client", path: Path) -> "Dataset":
    with upload_progress() as progress:
        return client.datasets.upload(path, progress=progress)


def _show(made: "run.Run | Job") -> Any:
    from carousel.cli import checked_job, job_views

    if isinstance(made, run.Run):
        return run.show(made)
    if isinstance(made, checked_job.CheckedJob):
        return checked_job.view(made)
    return job_views.job(made)


def _without_task(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "task"}


def _model_id(path: Path) -> str:
    made = re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")
    if not made:
        raise typer.BadParameter("the file's name makes no model's id: give --name MODEL")
    return made

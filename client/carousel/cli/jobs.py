"""`carousel jobs`: look at training runs, follow them, stop them, use what they made.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carousel.cli import job_views as views
from carousel.cli import run
from carousel.cli.arguments import JobId
from carousel.cli.remote import remote

if TYPE_CHECKING:
    from carousel.client import Checkpoint, Client, GradientFlow, Job

app = typer.Typer(help="Jobs: training runs.", no_args_is_help=True)

AtCheckpoint = Annotated[
    str, typer.Argument(metavar="[CHECKPOINT]", help="Its step, or best.", show_default=True)
]


@remote(app, view=views.jobs, name="list")
def list_(
    client: "Client",
    state: Annotated[
        list[str] | None,
        typer.Option(
            help="Only in this state: queued, preparing, running, cancelling, succeeded, failed "
            "or cancelled; may be given several times."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Only for this model.")] = None,
) -> "list[Job]":
    """List jobs, newest first."""
    return list(client.jobs.list(states=state or (), model=model))


@remote(app, view=views.job)
def show(client: "Client", job: JobId) -> "Job":
    """Describe a job."""
    return client.jobs.get(job)


@remote(app, view=run.show)
def watch(
    client: "Client",
    job: JobId,
    after: Annotated[
        int, typer.Option(min=0, help="Only what came after the event with this number.")
    ] = 0,
) -> "run.Run":
    """Follow a job until it ends: a picture on a terminal, a line for each event elsewhere."""
    return run.Run(client, client.jobs.get(job), after=after)


@remote(app, view=views.job)
def cancel(client: "Client", job: JobId) -> "Job":
    """Stop a job at its next update, with a checkpoint."""
    return client.jobs.cancel(job)


@remote(app, view=views.job)
def resume(
    client: "Client",
    job: JobId,
    steps: Annotated[
        int | None, typer.Option(min=1, help="A new number of updates in all.")
    ] = None,
) -> "Job":
    """Queue a cancelled or failed job again; it goes on from its last checkpoint."""
    return client.jobs.resume(job, max_steps=steps)


@remote(app, view=views.deleted)
def delete(client: "Client", job: JobId) -> dict[str, str]:
    """Delete an ended job with its checkpoints; versions that came of it stay."""
    client.jobs.delete(job)
    return {"deleted": job}


@remote(app, view=views.checkpoints)
def checkpoints(client: "Client", job: JobId) -> "list[Checkpoint]":
    """List a job's checkpoints."""
    return list(client.jobs.checkpoints(job))


@remote(app, view=views.promoted)
def promote(
    client: "Client",
    job: JobId,
    checkpoint: AtCheckpoint = "best",
    model: Annotated[
        str | None, typer.Option(help="The model it becomes a version of; unset: the job's.")
    ] = None,
    alias: Annotated[str | None, typer.Option(help="Moves to the new version.")] = None,
) -> dict[str, Any]:
    """Make a checkpoint a new version, whatever the job's gate says."""
    version = client.jobs.promote(job, checkpoint, model=model, alias=alias)
    return {"version": version, "job": job, "checkpoint": checkpoint}


@remote(app, view=views.gradients)
def gradients(
    client: "Client",
    job: JobId,
    checkpoint: AtCheckpoint = "best",
    window: Annotated[
        int, typer.Option(min=0, max=4096, help="Steps to go back; 0: the recipe's window.")
    ] = 0,
) -> "GradientFlow":
    """Look at how far the gradient travels back through a checkpoint's network."""
    return client.jobs.diagnose(job, checkpoint, window=window)


@remote(app, view=views.plotted)
def plot(
    client: "Client",
    job: JobId,
    out: Annotated[
        Path | None, typer.Option(help="Where to, without an ending; unset: ./JOB.")
    ] = None,
) -> dict[str, Any]:
    """Draw losses, metrics, gradient norms and horizons as PNG and SVG."""
    from carousel.cli import job_figure

    found = client.jobs.get(job)
    history = run.past(client, found)
    files = job_figure.draw(found, history, out or Path(found.id))
    return {"job": found.id, "files": [str(file) for file in files]}

"""The command as a whole: its groups, put together."""

import importlib.metadata
from typing import Annotated

import typer

from carousel.cli import (
    bench,
    certs,
    datasets,
    demo,
    exits,
    experiments,
    exporter,
    generate,
    health,
    jobs,
    keys,
    models,
    predict,
    serve,
    server,
    sessions,
    step,
    top,
    trace,
    train,
)

app = typer.Typer(
    name="carousel",
    help="Recurrent sequence models behind gRPC: train them, serve them, and talk to a server.",
    epilog=exits.EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,  # they may hold a token
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"carousel {importlib.metadata.version('carousel-rnn')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Recurrent sequence models behind gRPC: train them, serve them, and talk to a server."""


serve.register(app)
demo.register(app)
generate.register(app)
predict.register(app)
step.register(app)
trace.register(app)
train.register(app)
app.add_typer(jobs.app, name="jobs")
app.add_typer(datasets.app, name="datasets")
app.add_typer(models.app, name="models")
app.add_typer(sessions.app, name="sessions")
server.register(app)
app.add_typer(keys.app, name="keys")
top.register(app)
exporter.register(app)
certs.register(app)
health.register(app)
app.add_typer(bench.app, name="bench")
experiments.register(app)


def main() -> None:
    """The entry point."""
    app(prog_name="carousel")

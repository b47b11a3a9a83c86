"""`carousel experiments`: the long-range tasks of the literature, run here, without a server.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

from typing import Annotated

import typer

from carousel.cli import exits
from carousel.cli.serve import needs_server, prepare_threads


def register(app: typer.Typer) -> None:
    app.command(
        "experiments",
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
        add_help_option=False,
    )(experiments)


def experiments(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGUMENT]...", help="--help lists them.")
    ] = None,
) -> None:
    """Run the long-range tasks of the literature: which network remembers how far."""
    prepare_threads()
    try:
        from carousel.model.experiments import main
    except ModuleNotFoundError as error:
        exits.leave(exits.FAILED, needs_server("carousel experiments", error))
    raise typer.Exit(main(arguments or []) or exits.OK)

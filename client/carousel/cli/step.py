"""`carousel step`: feed a session by hand.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from carousel.cli import outputs_view
from carousel.cli.arguments import SessionId
from carousel.cli.outputs_view import Outputs
from carousel.cli.predict import Csv
from carousel.cli.remote import remote

if TYPE_CHECKING:
    from carousel.client import Client

VALUES_HELP = (
    "One for each step: features as in 0.5,-1.2, or tokens as numbers; or text. Before a negative "
    "number comes --."
)


def register(app: typer.Typer) -> None:
    remote(app, view=outputs_view.show)(step)


def step(
    client: "Client",
    session: SessionId,
    values: Annotated[list[str], typer.Argument(metavar="VALUE...", help=VALUES_HELP)],
    as_csv: Csv = False,
) -> Outputs:
    """Take steps of a session and show the outputs. Whoever holds it must attach again."""
    from carousel.cli import inputs

    version = client.get_version(client.get_session(session).model_version)
    config = version.config
    chunk = inputs.steps(values, config, lambda texts: client.tokenize(version.name, texts))
    held = client.attach(session)
    begin = held.step_index
    return Outputs(held.name, ["0"], [held.chunk(chunk)], [begin], config, as_csv)

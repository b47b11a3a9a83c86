"""`carousel top`: what a server does right now, again and again.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from carousel.cli import top_screen
from carousel.cli.quantities import seconds
from carousel.cli.remote import remote
from carousel.cli.top_look import look
from carousel.cli.top_now import Now, now
from carousel.cli.top_watch import Watch

if TYPE_CHECKING:
    from carousel.client import Client

INTERVAL = "2s"
SHORTEST = 0.1


def register(app: typer.Typer) -> None:
    remote(app, view=top_screen.show)(top)


def top(
    client: "Client",
    interval: Annotated[
        float,
        typer.Option(
            "--interval", "-i", parser=seconds, metavar="DURATION", help="Time between two looks."
        ),
    ] = INTERVAL,  # type: ignore[assignment]
    once: Annotated[
        bool, typer.Option("--once", help="Show the rates of one interval, and leave.")
    ] = False,
) -> "Now | Iterator[Now]":
    """Watch a server: rates, latency, batch size, sessions, jobs, gates. q or Ctrl-C leaves."""
    if interval < SHORTEST:
        raise typer.BadParameter(f"the interval must be at least {SHORTEST} s, got {interval:g}")
    if not once:
        return Watch(client, interval)
    first = look(client)
    time.sleep(interval)
    return now(client.target, look(client), first)

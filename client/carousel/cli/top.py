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
from carousel.cli.top_look import Look, look
from carousel.cli.top_now import Now, now

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


class Watch(Iterator["Now"]):
    """What a server does, from look to look, also through times at which it is not there.

    The first comes at once, and has no rates yet.
    """

    def __init__(self, client: "Client", interval: float) -> None:
        self.target, self.interval = client.target, interval
        self._client = client
        self._before: Look | None = None
        self._due = time.monotonic()
        self._lost_since: float | None = None

    def __next__(self) -> Now:
        from carousel.errors import CarouselError

        time.sleep(max(0.0, self._due - time.monotonic()))
        self._due = time.monotonic() + self.interval
        try:
            seen = look(self._client, timeout=max(2.0, self.interval))
        except CarouselError as error:
            self._lost_since = self._lost_since or time.monotonic()
            self._before = None
            away = time.monotonic() - self._lost_since
            return Now(target=self.target, trouble=error.message, away_seconds=away)
        before, self._before, self._lost_since = self._before, seen, None
        return now(self.target, seen, before)

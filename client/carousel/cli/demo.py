"""`carousel demo`: a server, a training, two clients, a fork, a forecast, the metrics that moved.

Everything that it shows can be done by hand: the commands stand above the panes. Modules with
signatures for typer can't postpone the evaluation of annotations.
"""

import shlex
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated

import typer

from carousel.cli import connection, demo_tables, demo_training, exits
from carousel.cli.demo_months import MONTHS, SHOWN
from carousel.cli.demo_panes import Panes, Stage
from carousel.cli.demo_processes import CannotStart, Generating, ServerProcess, stop_on_signals
from carousel.cli.demo_tables import Month
from carousel.cli.quantities import seconds, span

if TYPE_CHECKING:
    from carousel.client import Client, Session

TEXT, FORECAST = "king-james", "sunspots"
PROMPTS = {
    "alice": "In the beginning God created the heaven and the earth. ",
    "bob": "And Moses said unto Pharaoh, Let my people go, ",
}
TEMPERATURE = 0.7
TOKENS = 260
FORKS = 3
FORK_TOKENS = 160
ENDING = 40
TRAIN_SECONDS = 60.0
NEXT = {
    "carousel serve": "a server of your own, with its status page on http://localhost:9464/",
    "carousel top": "the same in the terminal",
    "docker compose up": "Prometheus and alerts too, and dashboards on http://localhost:3000/",
}


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    train: Annotated[
        float | None,
        typer.Option(
            parser=seconds, metavar="DURATION", help="How long a model is trained; unset: a minute."
        ),
    ] = None,
) -> None:
    """See it work: a server, a model that learns, two clients, a fork, a forecast, the metrics."""
    stage = Stage()
    begin = time.monotonic()
    try:
        with stop_on_signals(), connection.reporting(as_json=False):
            _play(stage, train or TRAIN_SECONDS)
    except CannotStart as error:
        exits.leave(exits.CANNOT_START, str(error))
    stage.say(f"That was all, in {time.monotonic() - begin:.0f} seconds.")
    stage.title("Go on by yourself")
    for command, what in NEXT.items():
        stage.say(f"{command:<17}  {what}")


def _play(stage: Stage, train: float) -> None:
    stage.title("1. A server")
    with ServerProcess() as server:
        with stage.waiting("carousel serve is starting"):
            server.start()
        stage.say(
            f"carousel serve listens on {server.target} as process {server.pid}, "
            f"ready after {server.seconds:.1f} s"
        )
        stage.say(f"what it does can be seen on {server.page} while the demo runs")
        with connection.connect(target=server.target) as client:
            stage.title(f"2. A model learns, for {span(train)}: an LSTM that never saw a word")
            demo_training.play(stage, client, train)
            before = client.statistics()
            said = _two_clients(stage, server.target)
            _fork(stage, client, said)
            _forecast(stage, client)
            stage.title("6. What the server counted")
            after = client.statistics()
            stage.show(demo_tables.moved(before, after))
            stage.say(demo_tables.turns(after))
        stage.title("7. The end")
        code, seconds = server.stop()
        stage.say(f"SIGTERM: the server drained and left with exit code {code} in {seconds:.1f} s")


def _two_clients(stage: Stage, target: str) -> str:
    """What alice said."""
    stage.title("3. Two client processes, each with a session of its own")
    with ExitStack() as running:
        clients = [
            running.enter_context(
                Generating(
                    target,
                    TEXT,
                    prompt,
                    session=name,
                    tokens=TOKENS,
                    temperature=TEMPERATURE,
                    seed=seed,
                )
            )
            for seed, (name, prompt) in enumerate(PROMPTS.items(), start=1)
        ]
        titles = [f"{name}, process {c.pid}" for name, c in zip(PROMPTS, clients, strict=True)]
        for client in clients:
            stage.command(shlex.join(client.words))
        with stage.panes(titles, list(PROMPTS.values()), tokens=TOKENS) as panes:
            _fill(panes, clients)
        for client in clients:
            client.check()
        return PROMPTS["alice"] + clients[0].text


def _fork(stage: Stage, client: "Client", said: str) -> None:
    stage.title("4. The clients are gone, their sessions are not: alice goes on three ways")
    with client.attach("alice") as alice:
        forks = alice.fork(FORKS)
        stage.command(f"session.fork({FORKS}), then generate with another seed each")
        titles = [f"alice, seed {seed}" for seed in range(1, FORKS + 1)]
        ending = f"...{said[-ENDING:]}"
        with stage.panes(titles, [ending] * FORKS, tokens=FORK_TOKENS) as panes:
            _fill(panes, [_texts(fork, seed) for seed, fork in enumerate(forks, start=1)])
        for fork in forks:
            fork.close()


def _texts(session: "Session", seed: int) -> Iterable[str]:
    tokens = session.generate(max_tokens=FORK_TOKENS, temperature=TEMPERATURE, seed=seed)
    return (token.text for token in tokens)


def _fill(panes: Panes, sources: Iterable[Iterable[str]]) -> None:
    """Show all texts at once; each source is read in a thread of its own."""
    arrived: SimpleQueue[Callable[[], None] | BaseException | None] = SimpleQueue()

    def read(place: int, source: Iterable[str]) -> None:
        try:
            for text in source:
                arrived.put(lambda text=text: panes.add(place, text))  # type: ignore[misc]
        except BaseException as error:
            arrived.put(error)
        else:
            arrived.put(None)

    threads = [
        threading.Thread(target=read, args=(place, source), daemon=True)
        for place, source in enumerate(sources)
    ]
    for thread in threads:
        thread.start()
    running = len(threads)
    while running:
        item = arrived.get()
        if isinstance(item, BaseException):
            raise item
        if item is None:
            running -= 1
        else:
            item()


def _forecast(stage: Stage, client: "Client") -> None:
    stage.title("5. Another model: monthly sunspots, one step a month, each forecasting the next")
    stage.command(f'client.session("{FORECAST}").step([sunspots of the month])')
    with client.session(FORECAST) as session:
        made = [float(session.step([number])[0]) for _, number in MONTHS]
    months = [
        Month(name, number, forecast, last)
        for (name, number), forecast, (_, last) in zip(MONTHS[1:], made, MONTHS, strict=False)
    ]
    shown = months[-SHOWN:]
    stage.show(demo_tables.forecasts(shown, made[-1]))
    stage.say(demo_tables.verdict(shown))

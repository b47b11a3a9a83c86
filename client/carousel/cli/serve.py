"""`carousel serve`: the server, from flags, environment and a file of settings.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

import asyncio
import inspect
import json
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from carousel.cli import connection, exits, serve_options

if TYPE_CHECKING:
    from carousel.server import Server, Settings

T = TypeVar("T")

EPILOG = (
    "Every setting can also stand in the environment, as in CAROUSEL_PORT, or in the file, as in "
    f"port = 50051. A flag wins over the environment, that over the file. {exits.EPILOG}"
)


def _frame(
    config: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="TOML file of settings; unset: the one CAROUSEL_CONFIG names."
        ),
    ] = None,
    show_settings: Annotated[
        bool, typer.Option("--show-settings", help="Print the settings as JSON, and leave.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Where it listens as a line of JSON, once it is ready.")
    ] = False,
) -> None:
    """What is not a setting; only the signature is used."""


def register(app: typer.Typer) -> None:
    """Add the command, with the options of both signatures."""

    def run(**given: Any) -> None:
        serve(**{name: given.pop(name) for name in frame}, flags=given)

    frame = inspect.signature(_frame).parameters
    settings = serve_options.all_options()
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*frame.values(), *settings)]
    run.__doc__ = "Serve models until SIGTERM or Ctrl-C, then drain."
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    vars(run)["__signature__"] = inspect.Signature(parameters)
    app.command("serve", epilog=EPILOG)(run)


def serve(
    *, config: Path | None, show_settings: bool, as_json: bool, flags: dict[str, Any]
) -> None:
    prepare_threads()
    connection.quiet_grpc()
    settings = _read(config, {k: v for k, v in flags.items() if v not in (None, [])})
    if show_settings:
        print(settings.model_dump_json(indent=2))
        return
    prepare_threads(settings.threads)
    from carousel.server import app, serving

    try:
        run_loop(serving.serve(settings, on_ready=lambda ready: _announce(ready, as_json=as_json)))
    except app.StartError as error:
        exits.leave(exits.CANNOT_START, str(error), as_json=as_json)


def prepare_threads(count: int | None = None) -> None:
    """OpenMP reads these once, when torch is imported.

    Two threads that wait actively on a busy machine made a step a hundred times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    if count is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(count))


def needs_server(command: str, error: ModuleNotFoundError) -> str:
    """What to do about a part of the server that is missing."""
    return needs("server", command, error)


def needs(extra: str, command: str, error: ModuleNotFoundError) -> str:
    """What to do about a package that is missing."""
    if (error.name or "").startswith("carousel."):
        raise error  # all of carousel is always installed: a fault of ours
    return (
        f"{command} needs the {extra} extra: pip install 'carousel-rnn[{extra}]' "
        f"({error.name} is missing)"
    )


def _read(config: Path | None, flags: dict[str, Any]) -> "Settings":
    try:
        from carousel.server.settings import Settings, SettingsError
    except ModuleNotFoundError as error:
        exits.leave(exits.CANNOT_START, needs_server("carousel serve", error))
    try:
        return Settings.read(config, **flags)
    except SettingsError as error:
        exits.leave(exits.USAGE, str(error))


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run it on the event loop that servers run on."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run(main)
    return uvloop.run(main)


def _announce(server: "Server", *, as_json: bool) -> None:
    """Where it listens: for people on a terminal, for programs when they asked."""
    from carousel.server.address import address

    host = server.settings.host
    target = address(host, server.port)
    scheme = "http" if server.settings.certificate_files is None else "https"
    http = None if server.http_port is None else f"{scheme}://{address(host, server.http_port)}"
    if as_json:
        told = {"target": target, "http": http, "pid": os.getpid()}
        print(json.dumps(told | {"frontends": server.settings.frontends}), flush=True)
    elif sys.stdout.isatty():
        page = "its page, " if server.settings.shows_page else ""
        beside = f"; {page}metrics and health on {http}" if http else ""
        count = server.settings.frontends
        by = f" with {count} front end{'s' if count > 1 else ''}" if count else ""
        print(f"Carousel listens on {target}{by}{beside}. Ctrl-C drains it.", flush=True)

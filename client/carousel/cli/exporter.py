"""`carousel exporter`: the metrics of servers for Prometheus.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

import json
import logging
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carousel.cli import connection, exits, serve
from carousel.cli.connection import DEFAULT_TARGET

if TYPE_CHECKING:
    from carousel.exporter import Exporter
    from carousel.exposition import Certificate

DEFAULT_PORT = 9465
PREFIX = "CAROUSEL_EXPORTER_"
EPILOG = (
    "Every option can also stand in the environment, as in CAROUSEL_EXPORTER_PORT; several "
    f"targets are separated by commas there. A token comes from CAROUSEL_TOKEN. {exits.EPILOG}"
)
# What Kubernetes sets beside a service of the name `carousel-exporter`.
_INJECTED = re.compile(r"(tcp|udp|sctp)://")


def _option(*names: str, variable: str, **more: Any) -> Any:
    return typer.Option(*names, envvar=PREFIX + variable, **more)


def _listen(variable: str, text: str, *names: str, **more: Any) -> Any:
    return _option(*names, variable=variable, help=text, rich_help_panel="Listening", **more)


def _file(variable: str, text: str) -> Any:
    return _option(
        variable=variable,
        help=text,
        exists=True,
        dir_okay=False,
        metavar="FILE",
        rich_help_panel="Connection",
    )


def _port(value: object) -> int:
    text = str(value)
    if _INJECTED.match(text):
        return DEFAULT_PORT
    if not text.isdecimal() or int(text) > 65_535:
        raise typer.BadParameter(f"the port must be 0 to 65535, got {text!r}")
    return int(text)


def register(app: typer.Typer) -> None:
    app.command("exporter", epilog=EPILOG)(exporter)


def exporter(
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "--server",
            envvar=[f"{PREFIX}TARGET", "CAROUSEL_TARGET"],
            metavar="HOST:PORT",
            help="A server to ask, may be given several times; dns:HOST:PORT: every address that "
            f"the name has at each scrape. Default: {DEFAULT_TARGET}.",
            rich_help_panel="Connection",
        ),
    ] = None,
    timeout: Annotated[
        float,
        _option(
            variable="TIMEOUT",
            min=0.001,
            metavar="SECONDS",
            help="How long all servers together may take; less, if Prometheus waits for less.",
            rich_help_panel="Connection",
        ),
    ] = 5.0,
    tls: Annotated[
        bool,
        _option(
            "--tls", variable="TLS", help="Talk to servers over TLS.", rich_help_panel="Connection"
        ),
    ] = False,
    ca: Annotated[
        Path | None, _file("CA", "PEM of the authorities to trust; implies --tls.")
    ] = None,
    cert: Annotated[
        Path | None, _file("CERT", "PEM of the client's certificate; implies --tls.")
    ] = None,
    key: Annotated[Path | None, _file("KEY", "PEM of the client's key.")] = None,
    host: Annotated[str, _listen("HOST", "Address to listen on.")] = "localhost",
    port: Annotated[
        int,
        _listen("PORT", "Port of /metrics and health; 0: a free one.", parser=_port, metavar="N"),
    ] = DEFAULT_PORT,
    tls_cert: Annotated[
        Path | None,
        _listen("TLS_CERT", "PEM file of the certificate to show, read anew when it changes."),
    ] = None,
    tls_key: Annotated[Path | None, _listen("TLS_KEY", "PEM file of its key.")] = None,
    tls_client_ca: Annotated[
        Path | None,
        _listen(
            "TLS_CLIENT_CA",
            "PEM file of authorities; only who has a certificate of theirs may read.",
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Listen on any address, though what is said can be read or anyone may ask; only "
            "as a flag.",
            rich_help_panel="Listening",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Where it listens as a line of JSON, once it does.")
    ] = False,
) -> None:
    """Show the metrics of servers to Prometheus, until SIGTERM or Ctrl-C."""
    connection.quiet_grpc()
    try:
        from carousel.client import TLS
        from carousel.exporter import Exporter, Targets, certificate
    except ModuleNotFoundError as error:
        exits.leave(exits.CANNOT_START, serve.needs("exporter", "carousel exporter", error))
    wanted = TLS(ca=ca, cert=cert, key=key) if tls or ca or cert or key else None
    try:
        own = certificate(
            host, cert=tls_cert, key=tls_key, client_ca=tls_client_ca, insecure=insecure
        )
        found = Targets(_split(targets), tls=wanted, token=os.environ.get("CAROUSEL_TOKEN") or None)
    except (ValueError, OSError) as error:
        exits.leave(exits.USAGE, str(error), as_json=as_json)
    _run(Exporter(found, timeout=timeout), host, port, own, as_json=as_json)


def _split(targets: list[str] | None) -> list[str]:
    parts = [part.strip() for target in targets or () for part in target.split(",")]
    return [part for part in parts if part] or [DEFAULT_TARGET]


def _run(
    exporter: "Exporter", host: str, port: int, own: "Certificate | None", *, as_json: bool
) -> None:
    """Listen until a signal says that it is enough."""
    from carousel.exposition import HttpServer, routes

    enough = threading.Event()
    paths = routes(exporter.read, lambda: not enough.is_set())
    try:
        server = HttpServer(host, port, paths, certificate=own)
    except OSError as error:
        where = f"{host}:{port}"
        message = f"can't listen on {where}: {error.strerror}; --port 0 takes a free one"
        exits.leave(exits.CANNOT_START, message, as_json=as_json)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: enough.set())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    server.start()
    scheme = "http" if own is None else "https"
    name = f"[{host}]" if ":" in host else host
    _announce(f"{scheme}://{name}:{server.port}", as_json=as_json)
    enough.wait()
    server.stop()
    exporter.close()


def _announce(http: str, *, as_json: bool) -> None:
    """Where it listens: for people on a terminal, for programs when they asked."""
    if as_json:
        print(json.dumps({"http": http, "pid": os.getpid()}), flush=True)
    elif sys.stdout.isatty():
        print(f"The exporter listens on {http}/metrics. Ctrl-C ends it.", flush=True)

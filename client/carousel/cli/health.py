"""`carousel health`: whether a server on this machine takes work, for those who run containers.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

import http.client
import json
import ssl
from typing import Annotated

import typer

from carousel.cli import exits

SECONDS = 2.0
DEFAULT_PORT = 9464


def register(app: typer.Typer) -> None:
    app.command("health")(health)


def health(
    port: Annotated[
        int,
        typer.Option(
            "--http-port",
            envvar="CAROUSEL_HTTP_PORT",
            min=1,
            max=65_535,
            help="Port of /metrics and health, of a server or an exporter on this machine.",
        ),
    ] = DEFAULT_PORT,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Ask whether a server here is ready: exit code 0 if it is, 1 if not, 3 if nobody answers."""
    try:
        code, text = _ask(port)
    except (OSError, http.client.HTTPException) as error:
        message = f"nobody answers on localhost:{port}: {error}"
        exits.leave(exits.UNREACHABLE, message, as_json=as_json)
    ready = code == 200
    print(json.dumps({"ready": ready}) if as_json else text)
    raise typer.Exit(exits.OK if ready else exits.FAILED)


def _ask(port: int) -> tuple[int, str]:
    """Status and text. A port that speaks HTTPS says so to those who do not."""
    code, text = _get(http.client.HTTPConnection("localhost", port, timeout=SECONDS))
    if code != 400:
        return code, text
    # It is this machine that answers, and nothing secret is asked.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return _get(http.client.HTTPSConnection("localhost", port, timeout=SECONDS, context=context))


def _get(connection: http.client.HTTPConnection) -> tuple[int, str]:
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace").strip()
    finally:
        connection.close()

"""The connection of a command: its options, the client they give, and how it ends.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carousel.cli import exits

if TYPE_CHECKING:
    from carousel.client import Client

PROGRAM = "carousel"
DEFAULT_TARGET = "localhost:50051"
_PANEL = "Connection"

_said: ContextVar[tuple[str, ...]] = ContextVar("said", default=())
_tenant: ContextVar[str] = ContextVar("tenant", default="")


def _option(*names: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=_PANEL, **more)


def _file(text: str) -> Any:
    return _option(help=text, exists=True, dir_okay=False, metavar="FILE")


def _address(*names: str) -> Any:
    return _option(*names, envvar="CAROUSEL_TARGET", help="Address of the server.")


Target = Annotated[str, _address("--target", "--server")]
Server = Annotated[str, _address("--server")]
"""For a command with a --target of its own."""


def options(
    target: Target = DEFAULT_TARGET,
    timeout: Annotated[
        float | None,
        _option(min=0.001, metavar="SECONDS", help="Give up after this long."),
    ] = None,
    tls: Annotated[
        bool, _option("--tls", help="Talk over TLS. A token comes from CAROUSEL_TOKEN.")
    ] = False,
    ca: Annotated[Path | None, _file("PEM of the authorities to trust; implies --tls.")] = None,
    cert: Annotated[Path | None, _file("PEM of the client's certificate; implies --tls.")] = None,
    key: Annotated[Path | None, _file("PEM of the client's key.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """What every command that asks a server takes; only the signature is used."""


@contextmanager
def connect(
    *,
    target: str,
    timeout: float | None = None,
    tls: bool = False,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    tenant: str = "",
) -> "Iterator[Client]":
    """A client for as long as the command runs; without a tenant, for that of CAROUSEL_TENANT."""
    quiet_grpc()
    from carousel.client import TLS, Client

    said = _said.set(_words(target=target, tls=tls, ca=ca, cert=cert, key=key))
    wanted = TLS(ca=ca, cert=cert, key=key) if tls or ca or cert or key else None
    more: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
    # Not an option: the arguments of a command can be seen by everyone on the machine.
    token = os.environ.get("CAROUSEL_TOKEN") or None
    more["tenant"] = tenant or os.environ.get("CAROUSEL_TENANT", "")
    within = _tenant.set(tenant)
    try:
        with Client(target, tls=wanted, token=token, **more) as client:
            yield client
    finally:
        _said.reset(said)
        _tenant.reset(within)


def quiet_grpc() -> None:
    """What fails is told in one line of ours; gRPC, which looks when it is imported, has more."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def command(*words: str) -> str:
    """A command of ours as it can be typed, to the very server that this one talks to."""
    within = [f"CAROUSEL_TENANT={tenant}"] if (tenant := _tenant.get()) else []
    return shlex.join([*within, _program(), *words, *_said.get()])


def _program() -> str:
    """As it was called where it is not on the path, as in `.venv/bin/carousel`."""
    called = Path(sys.argv[0])
    unknown = called.name == PROGRAM and shutil.which(PROGRAM) is None
    return str(called) if unknown else PROGRAM


def _words(*, target: str, tls: bool, **files: Path | None) -> tuple[str, ...]:
    """The options that make this connection again in this shell."""
    words = []
    if target != (os.environ.get("CAROUSEL_TARGET") or DEFAULT_TARGET):
        words += ["--server", target]
    if tls:
        words.append("--tls")
    for name, file in files.items():
        words += [f"--{name}", str(file)] if file else []
    return tuple(words)


@contextmanager
def reporting(*, as_json: bool) -> Iterator[None]:
    """Turns what went wrong into a message and an exit code."""
    from carousel.errors import CarouselError

    try:
        yield
    except CarouselError as error:
        exits.fail(error, as_json=as_json)
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise  # `carousel generate ... | head` is no failure to talk about
        exits.leave(exits.USAGE, str(error), as_json=as_json)

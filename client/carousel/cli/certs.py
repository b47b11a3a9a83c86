"""`carousel certs`: certificates for development and for networks of one's own.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from carousel.cli import exits, serve

if TYPE_CHECKING:
    from carousel.cli.certificates import Authority


def register(app: typer.Typer) -> None:
    app.command("certs")(certs)


def certs(
    folder: Annotated[Path, typer.Argument(help="Where they are written.")] = Path("certs"),
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            metavar="NAME",
            help="A name or address that the server is called by, beside localhost; may be given "
            "several times.",
        ),
    ] = None,
    client: Annotated[
        str, typer.Option(metavar="NAME", help="The client's name, and that of its files.")
    ] = "client",
    spiffe: Annotated[
        str | None,
        typer.Option(metavar="URI", help="The client's id, as in spiffe://example.org/forecasts."),
    ] = None,
    only: Annotated[
        Literal["server", "client"] | None,
        typer.Option(help="Make one of the two; the authority that is there signs it."),
    ] = None,
    days: Annotated[
        int, typer.Option(min=1, max=365, help="How long server and client are good.")
    ] = 30,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Make an authority, and certificates of a server and a client that it signs.

    An authority that is in the folder already is kept, and signs again: a server that runs takes
    up a new certificate by itself.
    """
    try:
        from carousel.cli.certificates import Authority
    except ModuleNotFoundError as error:
        exits.leave(exits.CANNOT_START, serve.needs("server", "carousel certs", error))
    names = {"server": ["server"], "client": [client], None: ["server", client]}[only]
    try:
        if client in ("ca", "server") or Path(client).name != client:
            raise ValueError(f"a client's name is one of a file, not ca or server, got {client!r}")
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_to_replace(folder, names, force=force)
        authority = _authority(Authority, folder, days)
        for name in names:
            signed = (
                authority.server(hosts or (), days=days)
                if name == "server"
                else authority.client(client, spiffe=spiffe, days=days)
            )
            signed.write(folder / f"{name}.pem", folder / f"{name}.key")
    except (ValueError, OSError) as error:
        exits.leave(exits.USAGE, str(error))
    _tell(folder, names, client)


def _refuse_to_replace(folder: Path, names: list[str], *, force: bool) -> None:
    files = [folder / f"{name}.{kind}" for name in names for kind in ("pem", "key")]
    if not force and (there := [str(file) for file in files if file.exists()]):
        raise ValueError(f"{', '.join(there)} exist already; --force replaces them")


def _authority(kind: "type[Authority]", folder: Path, days: int) -> "Authority":
    """The one that is there if it lives long enough, or else a new one where there is none."""
    certificate, key = folder / "ca.pem", folder / "ca.key"
    if not certificate.exists() and not key.exists():
        made = kind.new(days=max(days, 365))
        made.identity.write(certificate, key)
        return made
    found = kind.read(certificate, key)
    left = found.identity.certificate.not_valid_after_utc - datetime.now(UTC)
    if left.days < days:
        raise ValueError(
            f"{certificate} must be good for {days} days, and is for {max(left.days, 0)}: give "
            "fewer --days, or another folder for a new authority"
        )
    return found


def _tell(folder: Path, names: list[str], client: str) -> None:
    """How they are used, as commands."""
    ca = folder / "ca.pem"
    if "server" in names:
        shown = _flags(tls_cert=folder / "server.pem", tls_key=folder / "server.key")
        print(shlex.join(["carousel", "serve", *shown, *_flags(tls_client_ca=ca)]))
    if client in names:
        own = _flags(ca=ca, cert=folder / f"{client}.pem", key=folder / f"{client}.key")
        print(shlex.join(["carousel", "info", *own]))


def _flags(**files: Path) -> list[str]:
    return [
        word for name, file in files.items() for word in (f"--{name.replace('_', '-')}", str(file))
    ]

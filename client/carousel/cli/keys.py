"""`carousel keys`: the file of API keys that a server here reads; no server is asked.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carousel.cli import exits, key_views, output
from carousel.cli.quantities import seconds
from carousel.cli.serve import needs_server

if TYPE_CHECKING:
    from carousel.server.access.api_key import ApiKey

app = typer.Typer(
    help="API keys: who may call a server that runs with --api-keys.", no_args_is_help=True
)

File = Annotated[
    Path,
    typer.Option(
        "--file",
        envvar="CAROUSEL_API_KEYS",
        dir_okay=False,
        help="The file of keys, as in `carousel serve --api-keys FILE`; made at first need.",
    ),
]
Id = Annotated[
    str, typer.Argument(metavar="ID", help="The key's id, as `carousel keys list` has it.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


def _duration(text: str) -> Any:
    return typer.Option(parser=seconds, metavar="DURATION", help=text)


@app.command()
def create(
    file: File,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="What it may do, may be given several times: infer, sessions, models, train; "
            "without a tenant metrics and admin too."
        ),
    ] = None,
    tenant: Annotated[
        str, typer.Option(help="Whose it is; none: the operator's, who is over all tenants.")
    ] = "",
    name: Annotated[str, typer.Option(help="What it is for, in your words.")] = "",
    expires: Annotated[
        float | None,
        _duration("How long it is good, as in 90d; unset: until it is revoked, or as the old one."),
    ] = None,
    replaces: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Give it the tenant, scopes and name of this key."),
    ] = None,
    grace: Annotated[
        float | None,
        _duration("How long the key that it replaces is still good; unset: 1d; 0: no longer."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key, and show it: it is kept nowhere, and can't be shown again."""
    lifetime = None if expires is None else timedelta(seconds=expires)
    kept = timedelta(days=1) if grace is None else timedelta(seconds=grace)
    now = datetime.now(UTC)
    if replaces is not None and (scope or tenant or name):
        raise typer.BadParameter("with --replaces, scopes, tenant and name are the old key's")
    with _reporting(as_json=as_json):
        from carousel.server.access import key_file

        if replaces is None:
            key, secret = key_file.create(
                file, now=now, name=name, tenant=tenant, scopes=scope, lifetime=lifetime
            )
        else:
            key, secret = key_file.replace(file, replaces, now=now, grace=kept, lifetime=lifetime)
    output.show({**_told(key), "key": secret}, view=key_views.made, as_json=as_json)


@app.command(name="list")
def list_(file: File, as_json: Json = False) -> None:
    """List the keys, without what makes them secret."""
    with _reporting(as_json=as_json):
        from carousel.server.access import key_file

        keys = [_told(key) for key in key_file.read(file).values()]
    output.show(keys, view=key_views.keys, as_json=as_json)


@app.command()
def revoke(file: File, key_id: Id, as_json: Json = False) -> None:
    """Take a key out of the file; servers refuse it within seconds, also in open streams."""
    with _reporting(as_json=as_json):
        from carousel.server.access import key_file

        key = key_file.revoke(file, key_id)
    output.show(_told(key), view=key_views.revoked, as_json=as_json)


def _told(key: "ApiKey") -> dict[str, Any]:
    """What anybody may know of a key."""
    return {
        "id": key.id,
        "name": key.name,
        "tenant": key.tenant,
        "scopes": sorted(key.scopes),
        "create_time": key.create_time,
        "expire_time": key.expire_time,
    }


@contextmanager
def _reporting(*, as_json: bool) -> Iterator[None]:
    """Turns what went wrong into a message and an exit code."""
    try:
        from carousel.server.access.grant import AccessError
    except ModuleNotFoundError as error:
        exits.leave(exits.FAILED, needs_server("carousel keys", error), as_json=as_json)
    try:
        yield
    except AccessError as error:
        exits.leave(exits.FAILED, str(error), as_json=as_json)
    except ValueError as error:
        exits.leave(exits.USAGE, str(error), as_json=as_json)

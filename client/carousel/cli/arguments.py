"""Arguments that several commands share, completed from a server when there is one.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carousel.cli.connection import DEFAULT_TARGET, connect
from carousel.cli.quantities import seconds
from carousel.cli.tables import owned

if TYPE_CHECKING:
    from carousel.client import Client

# A person who presses the tab key does not wait longer.
_PATIENCE = 0.5


def _complete(ask: "Callable[[Client], Iterable[str]]") -> Callable[..., list[str]]:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        target = ctx.params.get("target") or os.environ.get("CAROUSEL_TARGET") or DEFAULT_TARGET
        try:
            with connect(target=target, timeout=_PATIENCE) as client:
                return [name for name in ask(client) if name.startswith(incomplete)]
        except Exception:  # completion has nowhere to complain
            return []

    return complete


def _models(client: "Client") -> Iterable[str]:
    for model in client.list_models():
        yield model.id
        yield from (f"{model.id}/{number}" for number in model.versions)
        yield from (f"{model.id}@{alias}" for alias in model.aliases)


def _sessions(client: "Client") -> Iterable[str]:
    return map(owned, client.list_sessions())


def _jobs(client: "Client") -> Iterable[str]:
    return map(owned, client.jobs.list())


def _datasets(client: "Client") -> Iterable[str]:
    return map(owned, client.datasets.list())


MODEL_HELP = "Such as king-james, king-james/2 or king-james@stable."
ModelName = Annotated[
    str,
    typer.Argument(metavar="MODEL", help=MODEL_HELP, autocompletion=_complete(_models)),
]
SessionId = Annotated[
    str,
    typer.Argument(
        metavar="SESSION",
        help="Id of the session; TENANT/ID for one of a tenant's.",
        autocompletion=_complete(_sessions),
    ),
]

JobId = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="Id of the job; TENANT/ID for one of a tenant's.",
        autocompletion=_complete(_jobs),
    ),
]
DatasetId = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="Id of the dataset; TENANT/ID for one of a tenant's.",
        autocompletion=_complete(_datasets),
    ),
]
OWNED = (SessionId, JobId, DatasetId)  # what lists show as tables.owned does


def apart(given: str) -> tuple[str, str]:
    """The tenant, or none, and the id in `ID`, `TENANT/ID` or a name such as `jobs/ID`."""
    tenant, slash, rest = given.partition("/")
    if not slash or tenant in ("sessions", "jobs", "datasets"):
        return "", given
    return tenant, rest


def _duration(text: str, **more: Any) -> Any:
    return typer.Option(parser=seconds, metavar="DURATION", help=text, **more)


Ttl = Annotated[
    float | None, _duration("End after this long without use, as in 90s, 5m, 1h30m or 2d.")
]
Lifetime = Annotated[float | None, _duration("End this long after the creation, whatever happens.")]
RewindDepth = Annotated[
    int, typer.Option(min=0, max=64, help="Keep this many earlier states to go back to.")
]
DurabilityName = Annotated[
    str | None,
    typer.Option(
        "--durability",
        help="What survives a crash of the server: nothing (memory), all but the last moments "
        "(async), every answer (sync). Unset: the server's default.",
    ),
]
Audit = Annotated[
    bool, typer.Option("--audit", help="Log all inputs, for carousel sessions replay.")
]
Grace = Annotated[float | None, _duration("Give up on what still runs after this long.")]

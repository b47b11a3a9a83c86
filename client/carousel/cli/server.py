"""`carousel info`, `quotas`, `stats` and `drain`: what operators ask of a server.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from carousel.cli import metric_views, server_views
from carousel.cli.arguments import Grace
from carousel.cli.remote import remote

if TYPE_CHECKING:
    from carousel.client import Client, MetricFamily, ServerInfo, TenantQuotas


def register(app: typer.Typer) -> None:
    remote(app, view=server_views.info)(info)
    remote(app, view=server_views.quotas)(quotas)
    remote(app, view=metric_views.statistics)(stats)
    remote(app, view=server_views.draining)(drain)


def info(client: "Client") -> "ServerInfo":
    """Describe the server and its limits."""
    return client.server_info()


def quotas(client: "Client") -> "list[TenantQuotas]":
    """Show what tenants use and may use: all of them, or that of CAROUSEL_TENANT."""
    return client.quotas()


def stats(
    client: "Client",
    prefix: Annotated[
        str, typer.Argument(help="Only metrics that begin so, such as carousel_step or grpc.")
    ] = "carousel_",
    everything: Annotated[
        bool, typer.Option("--all", help="Also what is zero or constant.")
    ] = False,
) -> "list[MetricFamily]":
    """Show the metrics at this moment."""
    families = [f for f in client.statistics().families if f.name.startswith(prefix)]
    return families if everything else metric_views.moved(families)


def drain(
    client: "Client",
    grace: Grace = None,
    successor: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="A server with the same store, where its callers go on."
        ),
    ] = "",
) -> dict[str, Any]:
    """Shut the server down gracefully: nothing new, what waits is finished, all is stored."""
    client.drain(grace=grace, successor=successor)
    return {"draining": True}

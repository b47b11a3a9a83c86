"""`carousel models`: what is in the store, what comes in, what is served.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from carousel.cli import model_views as views
from carousel.cli.arguments import ModelName
from carousel.cli.remote import remote
from carousel.cli.upload_bar import upload_progress

if TYPE_CHECKING:
    from carousel.client import Client, HealthRule, Model, ModelVersion

app = typer.Typer(help="The model store: list, upload, load, alias.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="MODEL", help="The model's id, such as king-james.")]
Number = Annotated[
    int, typer.Option("--version", min=0, help="The number it gets; 0: one above the highest.")
]
Check = Annotated[bool, typer.Option("--validate-only", help="Check everything, keep nothing.")]
Folder = Annotated[
    Path,
    typer.Argument(
        exists=True, file_okay=False, help="Folder with config.json and weights.safetensors."
    ),
]


@remote(app, view=views.models, name="list")
def list_(client: "Client") -> list[dict[str, Any]]:
    """List models with all their versions."""
    return [
        {
            "name": m.name,
            "tenant": m.tenant,
            "aliases": m.aliases,
            "versions": list(client.list_versions(m)),
        }
        for m in client.list_models()
    ]


@remote(app, view=views.version)
def show(client: "Client", model: ModelName) -> "ModelVersion":
    """Describe a version, with its card."""
    return client.get_version(model)


@remote(app, view=views.version)
def upload(
    client: "Client", folder: Folder, model: Id, version: Number = 0, validate_only: Check = False
) -> "ModelVersion":
    """Put a folder of this machine into the store, as a new version."""
    with upload_progress() as progress:
        return client.upload_model(
            folder, model=model, version=version, validate_only=validate_only, progress=progress
        )


@remote(app, view=views.version, name="import")
def import_(
    client: "Client",
    path: Annotated[str, typer.Argument(help="Folder on the server, below its import_root.")],
    model: Id,
    version: Number = 0,
    validate_only: Check = False,
) -> "ModelVersion":
    """Put a folder of the server's machine into the store, as a new version."""
    return client.import_model(path, model=model, version=version, validate_only=validate_only)


@remote(app, view=views.exported)
def export(
    client: "Client",
    model: ModelName,
    folder: Annotated[Path, typer.Argument(help="Where to; it is made, and must be empty.")],
) -> dict[str, str]:
    """Write a version's files into a folder of this machine."""
    client.export_model(model, folder)
    return {"model": model, "folder": str(folder)}


@remote(app, view=views.version)
def load(
    client: "Client",
    model: ModelName,
    precision: Annotated[
        Literal["float32", "int8", "bfloat16", "float16"] | None,
        typer.Option(
            help="In what numbers to compute, until it is unloaded or the server ends. A version "
            "that serves already must be unloaded first. Default: as the server is set."
        ),
    ] = None,
) -> "ModelVersion":
    """Serve a version; it is ready when this returns."""
    return client.load_model(model, precision=precision)


@remote(app, view=views.version)
def unload(
    client: "Client",
    model: ModelName,
    force: Annotated[bool, typer.Option("--force", help="End its sessions.")] = False,
) -> "ModelVersion":
    """Take a version out of service."""
    return client.unload_model(model, force=force)


@remote(app, view=views.deleted)
def delete(client: "Client", model: ModelName) -> dict[str, str]:
    """Delete an unloaded version, as in king-james/2, that no alias points at."""
    client.delete_version(model)
    return {"deleted": model}


@remote(app, view=views.model)
def alias(
    client: "Client",
    model: Id,
    name: Annotated[str, typer.Argument(metavar="ALIAS", help="Such as stable.")],
    version: Annotated[
        int | None, typer.Argument(min=1, help="The version's number; none with --delete.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the alias.")] = False,
) -> "Model":
    """Point an alias at a version, or remove it."""
    if delete == (version is not None):
        raise typer.BadParameter("give either the version's number or --delete")
    if version is None:
        return client.delete_alias(model, alias=name)
    return client.set_alias(model, alias=name, version=version)


@remote(app, view=views.policy)
def policy(
    client: "Client",
    model: Id,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC:THRESHOLD:ACTION",
            help="As in state_norm:40:clip; several are applied in order. Metrics: state_norm, "
            "saturation, age. Actions: alert, clip, soft_reset, reset.",
        ),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all rules.")] = False,
) -> "list[HealthRule]":
    """Show the rules for the states of a model's sessions, or replace them."""
    if clear and rule:
        raise typer.BadParameter("give either --rule or --clear")
    if clear or rule:
        return list(client.set_health_policy(model, [_rule(text) for text in rule or ()]))
    return list(client.get_health_policy(model))


def _rule(text: str) -> "HealthRule":
    from carousel.client import HealthRule

    try:
        metric, threshold, action = text.split(":")
        return HealthRule(metric, float(threshold), action)  # type: ignore[arg-type]
    except ValueError:
        raise typer.BadParameter(
            f"a rule is METRIC:THRESHOLD:ACTION, as in state_norm:40:clip, got {text!r}"
        ) from None

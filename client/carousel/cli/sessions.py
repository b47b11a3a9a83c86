"""`carousel sessions`: make, look at, copy, move and end sessions.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carousel.cli import by_id
from carousel.cli import session_views as views
from carousel.cli.arguments import (
    Audit,
    DurabilityName,
    Lifetime,
    ModelName,
    RewindDepth,
    SessionId,
    Ttl,
)
from carousel.cli.remote import remote
from carousel.cli.replay_view import Replayed
from carousel.cli.replay_view import show as show_replay

if TYPE_CHECKING:
    from rich.console import RenderableType

    from carousel.cli.inspect_view import Inspected
    from carousel.client import Client, SessionInfo

app = typer.Typer(
    help="Sessions: streams of steps with their own state on the server.", no_args_is_help=True
)

NewId = Annotated[str | None, typer.Option("--id", help="Its id; unset: 128 random bits.")]


@remote(app, view=views.sessions, name="list")
def list_(
    client: "Client",
    model: Annotated[
        str | None, typer.Option(help="Only those of this model, or of king-james/2.")
    ] = None,
) -> "list[SessionInfo]":
    """List live sessions."""
    return list(client.list_sessions(model=model))


@remote(app, view=views.session)
def show(client: "Client", session: SessionId) -> "SessionInfo":
    """Describe a session, also for an hour after its end."""
    return client.get_session(session)


@remote(app, view=views.session)
def create(
    client: "Client",
    model: ModelName,
    session_id: NewId = None,
    ttl: Ttl = None,
    lifetime: Lifetime = None,
    rewind_depth: RewindDepth = 0,
    durability: DurabilityName = None,
    state: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Initial state: .npz with h (and c)."),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Fed before the session begins; kept for the next one."),
    ] = None,
    audit: Audit = False,
) -> "SessionInfo":
    """Make a session. It lives on after this command, until its ttl."""
    made = client.session(
        model,
        session_id=session_id,
        ttl=ttl,
        lifetime=lifetime,
        rewind_depth=rewind_depth,
        durability=durability,
        initial_state=_state(state),
        prefix=prefix,
        audit=audit,
    )
    return made.info


@remote(app, view=views.ended)
def end(client: "Client", session: SessionId) -> dict[str, str]:
    """End a session."""
    client.delete_session(session)
    return {"ended": session}


@remote(app, view=views.sessions)
def fork(
    client: "Client",
    session: SessionId,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="How many copies.")] = 1,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="Id of a copy; once for each.")
    ] = None,
) -> "list[SessionInfo]":
    """Copy a session with its state; the session itself goes on undisturbed."""
    return by_id.fork(client, session, count=max(count, len(ids or ())), session_ids=ids or ())


@remote(app, view=views.session)
def rewind(
    client: "Client",
    session: SessionId,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Back by this many; 0 only ends a quarantine.")
    ] = None,
    step_index: Annotated[
        int | None, typer.Option(min=0, help="Back to where this was the next step.")
    ] = None,
    bookmark: Annotated[str | None, typer.Option(help="Back to the state of this name.")] = None,
) -> "SessionInfo":
    """Go back to an earlier state. Whoever holds the session must attach again."""
    if [steps, step_index, bookmark].count(None) != 2:
        raise typer.BadParameter("give one of --steps, --step-index and --bookmark")
    held = client.attach(session)
    held.rewind(steps=steps, step_index=step_index, bookmark=bookmark)
    return held.info


@remote(app, view=views.session)
def bookmark(
    client: "Client",
    session: SessionId,
    name: Annotated[str, typer.Argument(help="The bookmark.")],
    remove: Annotated[bool, typer.Option("--remove", help="Forget it instead.")] = False,
) -> "SessionInfo":
    """Give the present state a name to go back to. Whoever holds the session must attach again."""
    held = client.attach(session)
    if remove:
        held.remove_bookmark(name)
    else:
        held.bookmark(name)
    return held.info


@remote(app, view=views.session)
def migrate(client: "Client", session: SessionId, model: ModelName) -> "SessionInfo":
    """Move a session to another version with the same state schema, its state as it is.

    Whoever holds the session must attach again.
    """
    held = client.attach(session)
    held.migrate(model)
    return held.info


@remote(app, view=views.session)
def reset(client: "Client", session: SessionId) -> "SessionInfo":
    """Go back to the initial state and step 0. Whoever holds the session must attach again."""
    held = client.attach(session)
    held.reset()
    return held.info


@remote(app, view=views.exported)
def export(
    client: "Client",
    session: SessionId,
    file: Annotated[Path, typer.Argument(dir_okay=False, help="Where the snapshot goes.")],
) -> dict[str, Any]:
    """Write a session's state into a file; the session goes on undisturbed."""
    snapshot = by_id.export(client, session)
    data = snapshot.to_bytes()
    file.write_bytes(data)
    return {
        "session": session,
        "file": str(file),
        "bytes": len(data),
        "step_index": snapshot.step_index,
        "model_version": snapshot.model_version,
    }


@remote(app, view=views.session, name="import")
def import_(
    client: "Client",
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The snapshot.")],
    session_id: NewId = None,
    model: Annotated[
        str | None, typer.Option(help="The version to run on; unset: the snapshot's.")
    ] = None,
    ttl: Ttl = None,
    lifetime: Lifetime = None,
    rewind_depth: RewindDepth = 0,
    durability: DurabilityName = None,
    audit: Audit = False,
) -> "SessionInfo":
    """Make a session from a snapshot; it goes on exactly where that was taken."""
    from carousel.client import Snapshot

    made = client.import_session(
        Snapshot.from_bytes(file.read_bytes()),
        session_id=session_id,
        model=model,
        ttl=ttl,
        lifetime=lifetime,
        rewind_depth=rewind_depth,
        durability=durability,
        audit=audit,
    )
    return made.info


@remote(app, view=show_replay)
def replay(
    client: "Client",
    session: SessionId,
    start: Annotated[int, typer.Option("--from", min=0, help="The first step.")] = 0,
    stop: Annotated[
        int | None, typer.Option("--to", min=0, help="The step to end before; unset: all.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Show only what does not match, and the summary.")
    ] = False,
) -> Replayed:
    """Compute the past steps of an audited session again, and compare; also after its end.

    The whole log is verified first. The exit code is 1 when a step does not match, is missing, or
    the log was changed.
    """
    return Replayed(client, client.replay(session, start=start, stop=stop, verify_only=verify))


def _inspected(found: "Inspected | Iterator[Inspected]") -> "RenderableType | None":
    from carousel.cli.inspect_view import show

    return show(found)


@remote(app, view=_inspected)
def inspect(
    client: "Client",
    session: SessionId,
    steps: Annotated[
        int, typer.Option(min=0, max=256, help="How many of the latest steps; 0: none.")
    ] = 64,
    units: Annotated[
        int, typer.Option(min=0, max=256, help="Groups of units that are told apart.")
    ] = 4,
    follow: Annotated[
        bool, typer.Option("--follow", help="Look again each second, until it ends.")
    ] = False,
) -> "Inspected | Iterator[Inspected]":
    """Look inside a session: its state, and what its gates do; the session stays as it is.

    Asking for steps begins to watch it for a minute; those that come from then on are shown.
    """
    from carousel.cli.inspect_view import Looks

    looks = Looks(client, session, steps=steps, units=units)
    return looks.follow() if follow else looks.look()


@remote(app, view=views.session)
def touch(client: "Client", session: SessionId, ttl: Ttl = None) -> "SessionInfo":
    """Count as a use of a session, and give it a new ttl."""
    return by_id.touch(client, session, ttl=ttl)


def _state(file: Path | None) -> dict[str, Any] | None:
    if file is None:
        return None
    import numpy as np

    with np.load(file) as arrays:
        return dict(arrays)

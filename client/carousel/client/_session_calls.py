"""The calls of SessionService."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import numpy.typing as npt
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from carousel.client._call import Call, nothing
from carousel.client._cursor import Cursor
from carousel.client._inputs import Input, chunk_input, input_tensor
from carousel.client._inspection import Inspection, inspection
from carousel.client._names import model_name, session_name
from carousel.client._session_values import (
    SessionInfo,
    Snapshot,
    durability_number,
    named_tensors,
    session_info,
    snapshot,
    snapshot_message,
)
from carousel.client._times import Seconds, to_duration
from carousel.errors import InvalidField
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb

MAX_FORKS = 10_000

Made = session_pb2.Session
"""A description with a handle: what a session of the client begins from."""


def new_id() -> str:
    """128 random bits. The client chooses, so that a create whose answer was lost is known again
    by its id, and no session is left over."""
    return uuid.uuid4().hex


def create(
    model: str,
    session_id: str,
    *,
    ttl: Seconds | None,
    lifetime: Seconds | None,
    rewind_depth: int,
    durability: str | None,
    audit: bool,
    initial_state: Mapping[str, npt.ArrayLike] | None,
    prefix: Input | str | None = None,
) -> Call[Made]:
    request = pb.CreateSessionRequest(
        session_id=session_id,
        model=model_name(model),
        rewind_depth=rewind_depth,
        durability=durability_number(durability),
        audit=audit,
        initial_state=named_tensors(initial_state or {}),
    )
    if isinstance(prefix, str):
        request.prefix_text = prefix
    elif prefix is not None:
        request.prefix_inputs.CopyFrom(input_tensor(*chunk_input(prefix)))
    _set_times(request, ttl, lifetime)
    return _call("CreateSession", request)


def import_(
    value: Snapshot,
    session_id: str,
    *,
    model: str | None,
    ttl: Seconds | None,
    lifetime: Seconds | None,
    rewind_depth: int,
    durability: str | None,
    audit: bool,
) -> Call[Made]:
    request = pb.ImportSessionRequest(
        session_id=session_id,
        model="" if model is None else model_name(model),
        snapshot=snapshot_message(value),
        rewind_depth=rewind_depth,
        durability=durability_number(durability),
        audit=audit,
    )
    _set_times(request, ttl, lifetime)
    return _call("ImportSession", request)


def attach(name: str) -> Call[Made]:
    return _call("AttachSession", pb.AttachSessionRequest(name=session_name(name)))


def reattach(cursor: Cursor, *, moving: bool = False) -> Call[Made]:
    """Go on after the server was lost; refused where somebody else took the session over.

    While the session is moving, nobody knows whether it went back already.
    """
    request = pb.AttachSessionRequest(
        name=cursor.name, handle=cursor.handle, durable_index=0 if moving else cursor.durable
    )
    return _call("AttachSession", request)


def bookmark(name: str, handle: int, mark: str, *, remove: bool = False) -> Call[SessionInfo]:
    request = pb.BookmarkSessionRequest(name=name, handle=handle, bookmark=mark, remove=remove)
    return Call(_path("BookmarkSession"), request, session_pb2.Session, session_info)


def migrate(name: str, handle: int, model: str) -> Call[Made]:
    request = pb.MigrateSessionRequest(name=name, handle=handle, model=model_name(model))
    return _call("MigrateSession", request)


def get(name: str) -> Call[SessionInfo]:
    request = pb.GetSessionRequest(name=session_name(name))
    return Call(_path("GetSession"), request, session_pb2.Session, session_info)


def touch(name: str, ttl: Seconds | None) -> Call[SessionInfo]:
    request = pb.TouchSessionRequest(name=session_name(name))
    if ttl is not None:
        request.ttl.CopyFrom(to_duration(ttl))
    return Call(_path("TouchSession"), request, session_pb2.Session, session_info)


def list_page(model: str | None, page_token: str) -> Call[tuple[list[SessionInfo], str]]:
    request = pb.ListSessionsRequest(
        page_size=1000,
        page_token=page_token,
        model="" if model is None else model_name(model),
    )
    return Call(_path("ListSessions"), request, pb.ListSessionsResponse, _page)


def delete(name: str, handle: int | None = None) -> Call[None]:
    request = pb.DeleteSessionRequest(name=session_name(name), handle=handle)
    return Call(_path("DeleteSession"), request, empty_pb2.Empty, nothing)


def fork(name: str, count: int | None, chosen: Sequence[str]) -> Call[list[Made]]:
    """To be made again as it is while its answer is not known: the copies are the same."""
    ids = [chosen] if isinstance(chosen, str) else list(chosen)
    wanted = count if count is not None else len(ids) or 1
    if not len(ids) <= wanted <= MAX_FORKS or wanted < 1:
        raise InvalidField(
            f"count must be {max(len(ids), 1)} to {MAX_FORKS} with {len(ids)} session_ids, "
            f"got {wanted}",
            field="count",
        )
    request = pb.ForkSessionRequest(
        name=name, count=wanted, session_ids=ids, request_id=uuid.uuid4().hex
    )
    return Call(_path("ForkSession"), request, pb.ForkSessionResponse, _copies)


def check_rewind(steps: int | None, step_index: int | None, bookmark: str | None) -> None:
    if [steps, step_index, bookmark].count(None) != 2:
        raise InvalidField("give one of steps, step_index and bookmark", field="target")
    if (steps or 0) < 0 or (step_index or 0) < 0:
        raise InvalidField(
            f"steps and step_index must be at least 0, got {steps or step_index}", field="target"
        )


def rewind_to(
    cursor: Cursor, *, steps: int | None, step_index: int | None, bookmark: str | None
) -> Call[Made]:
    """As the caller wants it; by an index rather than by `steps`, so that it can be repeated."""
    if steps is not None and steps <= cursor.index:
        step_index, steps = cursor.index - steps, None
    return rewind(cursor.name, cursor.handle, steps=steps, step_index=step_index, bookmark=bookmark)


def rewind(
    name: str,
    handle: int,
    *,
    steps: int | None = None,
    step_index: int | None = None,
    bookmark: str | None = None,
) -> Call[Made]:
    request = pb.RewindSessionRequest(name=name, handle=handle)
    if bookmark is not None:
        request.bookmark = bookmark
    elif step_index is not None:
        request.step_index = step_index
    else:
        request.steps = steps or 0
    return _call("RewindSession", request)


def reset(name: str, handle: int) -> Call[Made]:
    return _call("ResetSession", pb.ResetSessionRequest(name=name, handle=handle))


def export(name: str) -> Call[Snapshot]:
    request = pb.ExportSessionRequest(name=name)
    return Call(_path("ExportSession"), request, pb.ExportSessionResponse, _snapshot)


def inspect(name: str, steps: int, units: int) -> Call[Inspection]:
    for field, given in (("steps", steps), ("units", units)):
        if given < 0:
            raise InvalidField(f"{field} must be at least 0, got {given}", field=field)
    request = pb.InspectSessionRequest(name=session_name(name), steps=steps, units=units)
    return Call(_path("InspectSession"), request, pb.InspectSessionResponse, inspection)


def _call(method: str, request: Message) -> Call[Made]:
    return Call(_path(method), request, session_pb2.Session, _as_it_is)


def _path(method: str) -> str:
    return f"carousel.v1.SessionService/{method}"


def _set_times(
    request: pb.CreateSessionRequest | pb.ImportSessionRequest,
    ttl: Seconds | None,
    lifetime: Seconds | None,
) -> None:
    if ttl is not None:
        request.ttl.CopyFrom(to_duration(ttl))
    if lifetime is not None:
        request.lifetime.CopyFrom(to_duration(lifetime))


def _as_it_is(message: session_pb2.Session) -> Made:
    return message


def _copies(message: pb.ForkSessionResponse) -> list[Made]:
    return list(message.sessions)


def _page(message: pb.ListSessionsResponse) -> tuple[list[SessionInfo], str]:
    return [session_info(one) for one in message.sessions], message.next_page_token


def _snapshot(message: pb.ExportSessionResponse) -> Snapshot:
    return snapshot(message.snapshot)

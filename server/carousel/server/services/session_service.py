"""SessionService: decode, call the engine, encode."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal, Protocol

from google.protobuf import duration_pb2, empty_pb2
from google.protobuf.message import Message

from carousel.errors import (
    InvalidField,
    SessionEnded,
    SessionExists,
    SessionFenced,
    SessionNotFound,
    StepsLost,
)
from carousel.server import forks, listing, names, snapshots
from carousel.server.audit.replays import Replays
from carousel.server.departed import Ended
from carousel.server.gates.inspection import Inspections
from carousel.server.groups import Done
from carousel.server.hall import Hall
from carousel.server.loaded import LoadedVersion
from carousel.server.made import made_one
from carousel.server.prefixes import Prefixes
from carousel.server.rpc import Context
from carousel.server.session_values import describe_ended, describe_record
from carousel.server.sessions import Terms
from carousel.server.tenants import tenant_of
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb

TAKEOVERS = 5  # attempts to take a session over from a server that still writes


class SessionService:
    """Makes, reads, copies and ends sessions."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._sessions = hall.sessions
        self._call = hall.engine.call
        self._prefixes = Prefixes(hall)
        self._replays = Replays(hall)
        self._inspections = Inspections(hall)

    async def CreateSession(
        self, request: pb.CreateSessionRequest, context: Context
    ) -> session_pb2.Session:
        self._hall.refuse_when_draining()
        tenant = tenant_of(context)
        version = self._hall.registry.resolve(request.model, tenant)
        terms = _terms(request, tenant)
        if request.WhichOneof("prefix"):
            return await self._made_with_prefix(request, version, terms)
        row = (
            snapshots.read_state(request.initial_state, version) if request.initial_state else None
        )
        return await self._made(version, terms, row=row)

    async def _made_with_prefix(
        self, request: pb.CreateSessionRequest, version: LoadedVersion, terms: Terms
    ) -> session_pb2.Session:
        version.check_stepwise()
        prefix = await self._prefixes.find(version, request, terms.tenant)
        return await self._made(
            version,
            terms,
            row=prefix.row,
            step_index=prefix.steps,
            reply_index=prefix.steps - 1,
            reply=prefix.output,
        )

    async def _made(
        self, version: LoadedVersion, terms: Terms, **start: Any
    ) -> session_pb2.Session:
        return await self._hall.made(
            lambda: made_one(self._sessions.create(version, terms, **start))
        )

    async def AttachSession(
        self, request: pb.AttachSessionRequest, context: Context
    ) -> session_pb2.Session:
        self._hall.refuse_when_draining()
        session_id = _key(request.name, context)
        handle, known = _handle(request), request.durable_index
        self._hall.engine.behind.refuse_when_troubled()
        await self._hall.resident(session_id)
        try:
            return await self._attached(session_id, handle, known)
        except (SessionNotFound, SessionEnded, SessionFenced) as error:
            engine = self._hall.engine
            if session_id in engine.table.slots or engine.behind.is_ending(session_id):
                raise
            try:
                return await self._brought_back(session_id, handle, known)
            except SessionNotFound:
                raise error from None

    async def _attached(
        self, session_id: str, handle: int | None, known: int
    ) -> session_pb2.Session:
        """A session that is here; SessionFenced where it went on elsewhere meanwhile."""
        try:
            return await self._hall.kept(self._sessions.attach, session_id, handle, known)
        except (StepsLost, SessionFenced):
            if await self._went_on_elsewhere(session_id):
                raise SessionFenced("another server has the session") from None
            raise

    async def _be_sure_of(self, session_id: str) -> None:
        """Let go of a session that another server took over, before its state is read."""
        known = self._hall.engine.table.stored_as(session_id)
        if not known or self._hall.engine.behind.trouble is not None:
            return
        entry = await self._hall.at_rest.entry(session_id)
        if entry is not None and entry.handle not in known:
            with contextlib.suppress(SessionEnded):
                await self._went_on_elsewhere(session_id)

    async def _went_on_elsewhere(self, session_id: str) -> bool:
        """Whether another server has a session that this one thinks it has; then it is let go of.

        The store knows, and refuses the word of a server that was away.
        """
        try:
            await self._hall.secure(session_id)
        except SessionFenced:
            return True
        return False

    async def _brought_back(
        self, session_id: str, handle: int | None, known: int
    ) -> session_pb2.Session:
        """A session out of the store, which knows of its new handle when this returns."""
        for attempt in range(TAKEOVERS):
            found = await self._hall.at_rest.to_restore(session_id, handle, known)
            try:
                return await self._hall.kept(self._sessions.restore, *found, handle)
            except SessionFenced:
                # Its former server wrote once more between the look and the takeover: look again.
                if attempt == TAKEOVERS - 1:
                    raise
        raise AssertionError("unreachable")

    async def GetSession(
        self, request: pb.GetSessionRequest, context: Context
    ) -> session_pb2.Session:
        session_id = _key(request.name, context)
        await self._be_sure_of(session_id)
        try:
            session = await self._call(self._sessions.get, session_id)
        except SessionNotFound:
            found = await self._hall.at_rest.find(session_id)
            if found is None:
                raise
        else:
            volatile = session.durability == session_pb2.DURABILITY_MEMORY
            behind = self._hall.engine.behind
            if not session.end_reason or volatile or behind.is_ending(session_id):
                return session
            # One that ended here may have begun anew elsewhere.
            found = await self._hall.at_rest.find(session_id)
            if found is None:
                return session
        return describe_ended(found) if isinstance(found, Ended) else describe_record(found)

    async def _here(
        self, function: Callable[..., session_pb2.Session], key: str, *args: Any, **kwargs: Any
    ) -> session_pb2.Session:
        """Change a session that is here; return when a durable one is in the store."""
        session_id = key
        self._hall.engine.behind.refuse_when_troubled()
        await self._hall.resident(session_id)
        try:
            return await self._hall.kept(function, session_id, *args, **kwargs)
        except SessionFenced as error:
            if not await self._went_on_elsewhere(session_id):
                raise
            raise await self._hall.at_rest.refuse(session_id, error) from None
        except SessionNotFound as error:
            raise await self._hall.at_rest.refuse(session_id, error) from None

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        return await listing.page(self._hall, request, tenant_of(context))

    async def DeleteSession(
        self, request: pb.DeleteSessionRequest, context: Context
    ) -> empty_pb2.Empty:
        session_id, handle = _key(request.name, context), _handle(request)
        was_here = False

        def end(done: Done) -> None:
            nonlocal was_here
            self._sessions.delete(session_id, handle)
            was_here = True
            self._hall.engine.behind.secure_end(session_id, done)

        try:
            await self._hall.stored(end)
        except SessionNotFound:
            await self._hall.at_rest.end(session_id, handle)
        except SessionFenced:
            if not was_here:
                raise
            # It had gone on elsewhere: there it ends.
            await self._hall.at_rest.end(session_id, handle)
        return empty_pb2.Empty()

    async def ForkSession(
        self, request: pb.ForkSessionRequest, context: Context
    ) -> pb.ForkSessionResponse:
        self._hall.refuse_when_draining()
        session_id = _key(request.name, context)
        keys, claim = forks.asked(session_id, request)
        self._hall.engine.behind.refuse_when_troubled()
        await self._be_sure_of(session_id)
        await self._hall.resident(session_id, *(keys if claim else ()))
        try:
            try:
                return await self._copied(session_id, keys, claim)
            except SessionExists:
                if not await self._bring_back_copies(keys, claim):
                    raise
                return await self._copied(session_id, keys, claim)
        except SessionNotFound as error:
            raise await self._hall.at_rest.refuse(session_id, error) from None

    async def _copied(
        self, session_id: str, keys: Sequence[str], claim: int
    ) -> pb.ForkSessionResponse:
        return await self._hall.made(lambda: self._sessions.fork(session_id, keys, claim))

    async def _bring_back_copies(self, keys: Sequence[str], claim: int) -> bool:
        """Copies that the same call made, on a server that was lost; whether there are any."""
        here = self._hall.engine.table.slots
        absent = [key for key in keys if key not in here]
        found = await self._hall.at_rest.claimed(absent, claim) if claim else []
        for one in found:
            await self._call(self._sessions.restore, *one, claim)
        return bool(found)

    async def RewindSession(
        self, request: pb.RewindSessionRequest, context: Context
    ) -> session_pb2.Session:
        target = request.WhichOneof("target")
        if target is None:
            raise InvalidField("steps, step_index or bookmark must be set", field="target")
        return await self._here(
            self._sessions.rewind,
            _key(request.name, context),
            _handle(request),
            **{target: getattr(request, target)},
        )

    async def BookmarkSession(
        self, request: pb.BookmarkSessionRequest, context: Context
    ) -> session_pb2.Session:
        bookmark = names.check_id(request.bookmark, field="bookmark")
        return await self._here(
            self._sessions.bookmark,
            _key(request.name, context),
            _handle(request),
            bookmark,
            remove=request.remove,
        )

    async def MigrateSession(
        self, request: pb.MigrateSessionRequest, context: Context
    ) -> session_pb2.Session:
        version = self._hall.registry.resolve(request.model, tenant_of(context))
        key = _key(request.name, context)
        return await self._here(self._sessions.migrate, key, _handle(request), version)

    async def ResetSession(
        self, request: pb.ResetSessionRequest, context: Context
    ) -> session_pb2.Session:
        key = _key(request.name, context)
        return await self._here(self._sessions.reset, key, _handle(request))

    async def ExportSession(
        self, request: pb.ExportSessionRequest, context: Context
    ) -> pb.ExportSessionResponse:
        session_id = _key(request.name, context)
        await self._be_sure_of(session_id)
        await self._hall.resident(session_id)
        try:
            exported = await self._call(self._sessions.export, session_id)
        except SessionNotFound as error:
            raise await self._hall.at_rest.refuse(session_id, error) from None
        return pb.ExportSessionResponse(snapshot=snapshots.make(exported, self._hall.keyring))

    async def ImportSession(
        self, request: pb.ImportSessionRequest, context: Context
    ) -> session_pb2.Session:
        self._hall.refuse_when_draining()
        snapshot = snapshots.check(
            request.snapshot,
            self._hall.keyring,
            unsealed=self._hall.settings.import_unsealed,
        )
        model, tenant = request.model or snapshot.model_version, tenant_of(context)
        version = self._hall.registry.resolve(model, tenant)
        row, reply = snapshots.read(snapshot, version)
        return await self._made(
            version,
            _terms(request, tenant),
            row=row,
            step_index=snapshot.step_index,
            reply_index=snapshot.reply_index,
            reply=reply,
            event=pb.AUDIT_EVENT_IMPORTED,
        )

    async def TouchSession(
        self, request: pb.TouchSessionRequest, context: Context
    ) -> session_pb2.Session:
        key = _key(request.name, context)
        return await self._here(self._sessions.touch, key, _seconds(request, "ttl"))

    async def ReplaySession(
        self, request: pb.ReplaySessionRequest, context: Context
    ) -> AsyncIterator[pb.ReplaySessionResponse]:
        session_id = _key(request.name, context)
        await self._be_sure_of(session_id)
        async for response in self._replays.replay(session_id, request):
            yield response

    async def InspectSession(
        self, request: pb.InspectSessionRequest, context: Context
    ) -> pb.InspectSessionResponse:
        return await self._inspections.inspect(request, tenant_of(context))


def _key(name: str, context: Context) -> str:
    """The key of the caller's session of this name. Raises InvalidField."""
    return names.key_of(tenant_of(context), names.session_id(name))


def _terms(request: pb.CreateSessionRequest | pb.ImportSessionRequest, tenant: str) -> Terms:
    if request.session_id:
        names.check_id(request.session_id, field="session_id")
    return Terms(
        session_id=request.session_id,
        tenant=tenant,
        ttl=_seconds(request, "ttl"),
        lifetime=_seconds(request, "lifetime"),
        rewind_depth=request.rewind_depth,
        durability=request.durability,
        audit=request.audit,
    )


def _seconds(request: Message, field: str) -> float | None:
    if not request.HasField(field):
        return None
    duration: duration_pb2.Duration = getattr(request, field)
    return duration.seconds + duration.nanos / 1e9


class _Held(Protocol):
    """A request that may name the handle that the caller holds."""

    handle: int

    def HasField(self, field_name: Literal["handle"], /) -> bool: ...


def _handle(request: _Held) -> int | None:
    return request.handle if request.HasField("handle") else None

"""SessionService: decode, call the engine, encode."""

from __future__ import annotations

import asyncio
import heapq

from google.protobuf import duration_pb2, empty_pb2
from google.protobuf.message import Message

from carousel.errors import DurabilityUnsupported, InvalidField
from carousel.server import names, snapshots
from carousel.server.hall import Hall
from carousel.server.rpc import Context
from carousel.server.sessions import MAX_FORKS, Terms
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb


class SessionService:
    """Makes, reads, copies and ends sessions."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._sessions = hall.sessions
        self._call = hall.engine.call

    async def CreateSession(
        self, request: pb.CreateSessionRequest, context: Context
    ) -> session_pb2.Session:
        self._hall.refuse_when_draining()
        version = self._hall.registry.resolve(request.model)
        terms = _terms(request)
        row = (
            snapshots.read_state(request.initial_state, version) if request.initial_state else None
        )
        return await self._made(self._call(self._sessions.create, version, terms, row=row))

    async def _made(self, making: asyncio.Future[session_pb2.Session]) -> session_pb2.Session:
        """The new session; it ends at once when its caller has gone, who will never know of it."""
        return (await self._all_made(asyncio.ensure_future(_listed(making))))[0]

    async def _all_made(
        self, making: asyncio.Future[list[session_pb2.Session]]
    ) -> list[session_pb2.Session]:
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._unmake)
            raise

    def _unmake(self, making: asyncio.Future[list[session_pb2.Session]]) -> None:
        if not making.cancelled() and making.exception() is None:
            self._call(self._sessions.discard, [session.handle for session in making.result()])

    async def AttachSession(
        self, request: pb.AttachSessionRequest, context: Context
    ) -> session_pb2.Session:
        return await self._call(self._sessions.attach, names.session_id(request.name))

    async def GetSession(
        self, request: pb.GetSessionRequest, context: Context
    ) -> session_pb2.Session:
        return await self._call(self._sessions.get, names.session_id(request.name))

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        last = names.page_key(request.page_token) if request.page_token else ""
        size = names.page_size(request.page_size)
        ref = names.ModelRef.parse(request.model, field="model") if request.model else None
        return await self._call(self._list, ref, last, size)

    def _list(self, ref: names.ModelRef | None, last: str, size: int) -> pb.ListSessionsResponse:
        table = self._hall.engine.table
        wanted = {
            v.ordinal
            for v in self._hall.engine.versions
            if ref is None or (v.model == ref.model and ref.version in (None, v.version))
        }
        matching = [i for i, slot in table.slots.items() if int(table.version[slot]) in wanted]
        page = heapq.nsmallest(size + 1, (i for i in matching if i > last))
        response = pb.ListSessionsResponse(
            sessions=[self._sessions.describe(table.slots[i]) for i in page[:size]],
            total_size=len(matching),
        )
        if len(page) > size:
            response.next_page_token = names.page_token(page[size - 1])
        return response

    async def DeleteSession(
        self, request: pb.DeleteSessionRequest, context: Context
    ) -> empty_pb2.Empty:
        session_id = names.session_id(request.name)
        await self._call(self._sessions.delete, session_id, _handle(request))
        return empty_pb2.Empty()

    async def ForkSession(
        self, request: pb.ForkSessionRequest, context: Context
    ) -> pb.ForkSessionResponse:
        self._hall.refuse_when_draining()
        ids = [names.check_id(text, field="session_ids") for text in request.session_ids]
        count = request.count or len(ids) or 1
        if count > MAX_FORKS or len(ids) > count:
            raise InvalidField(
                f"count must be {max(len(ids), 1)} to {MAX_FORKS} with {len(ids)} session_ids, "
                f"got {count}",
                field="count",
            )
        ids += [""] * (count - len(ids))
        session_id = names.session_id(request.name)
        sessions = await self._all_made(self._call(self._sessions.fork, session_id, ids))
        return pb.ForkSessionResponse(sessions=sessions)

    async def RewindSession(
        self, request: pb.RewindSessionRequest, context: Context
    ) -> session_pb2.Session:
        target = request.WhichOneof("target")
        if target is None:
            raise InvalidField("steps or step_index must be set", field="target")
        return await self._call(
            self._sessions.rewind,
            names.session_id(request.name),
            _handle(request),
            request.steps if target == "steps" else None,
            request.step_index if target == "step_index" else None,
        )

    async def ResetSession(
        self, request: pb.ResetSessionRequest, context: Context
    ) -> session_pb2.Session:
        session_id = names.session_id(request.name)
        return await self._call(self._sessions.reset, session_id, _handle(request))

    async def ExportSession(
        self, request: pb.ExportSessionRequest, context: Context
    ) -> pb.ExportSessionResponse:
        exported = await self._call(self._sessions.export, names.session_id(request.name))
        return pb.ExportSessionResponse(snapshot=snapshots.make(exported))

    async def ImportSession(
        self, request: pb.ImportSessionRequest, context: Context
    ) -> session_pb2.Session:
        self._hall.refuse_when_draining()
        snapshot = snapshots.check(request.snapshot)
        model = request.model or snapshot.model_version
        version = self._hall.registry.resolve(model)
        row, reply = snapshots.read(snapshot, version)
        return await self._made(
            self._call(
                self._sessions.create,
                version,
                _terms(request),
                row=row,
                step_index=snapshot.step_index,
                reply_index=snapshot.reply_index,
                reply=reply,
            )
        )

    async def TouchSession(
        self, request: pb.TouchSessionRequest, context: Context
    ) -> session_pb2.Session:
        ttl = _seconds(request, "ttl")
        return await self._call(self._sessions.touch, names.session_id(request.name), ttl)


async def _listed(making: asyncio.Future[session_pb2.Session]) -> list[session_pb2.Session]:
    return [await making]


def _terms(request: pb.CreateSessionRequest | pb.ImportSessionRequest) -> Terms:
    if request.durability not in (
        session_pb2.DURABILITY_UNSPECIFIED,
        session_pb2.DURABILITY_MEMORY,
    ):
        raise DurabilityUnsupported(
            "this server keeps sessions in memory only; durability must be MEMORY, "
            f"got {request.durability}"
        )
    if request.session_id:
        names.check_id(request.session_id, field="session_id")
    return Terms(
        session_id=request.session_id,
        ttl=_seconds(request, "ttl"),
        lifetime=_seconds(request, "lifetime"),
        rewind_depth=request.rewind_depth,
    )


def _seconds(request: Message, field: str) -> float | None:
    if not request.HasField(field):
        return None
    duration: duration_pb2.Duration = getattr(request, field)
    return duration.seconds + duration.nanos / 1e9


def _handle(
    request: pb.DeleteSessionRequest | pb.RewindSessionRequest | pb.ResetSessionRequest,
) -> int | None:
    return request.handle if request.HasField("handle") else None

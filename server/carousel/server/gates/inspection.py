"""InspectSession: the engine copies what it has; all else happens in a thread beside it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from carousel.errors import InvalidField, SessionNotFound, StoreUnavailable
from carousel.server import names, records
from carousel.server.call_queue import CallQueue
from carousel.server.departed import Ended
from carousel.server.gates.glimpse import Glimpse, look, of_record
from carousel.server.gates.show import show
from carousel.server.gates.watch import MOST_STEPS
from carousel.server.hall import Hall
from carousel.server.names import session_name
from carousel.server.records import Record
from carousel.v1 import session_service_pb2 as pb

MOST_UNITS = 256
MOST_WAITING = 64


class Inspections:
    """Looks into sessions, one at a time."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._thread = ThreadPoolExecutor(1, "carousel-inspect")
        self._queue = CallQueue(MOST_WAITING)

    async def inspect(
        self, request: pb.InspectSessionRequest, tenant: str
    ) -> pb.InspectSessionResponse:
        session_id = names.key_of(tenant, names.session_id(request.name))
        for field, given, most in (
            ("steps", request.steps, MOST_STEPS),
            ("units", request.units, MOST_UNITS),
        ):
            if given > most:
                raise InvalidField(f"{field} must be 0 to {most}, got {given}", field=field)
        glimpse = await self._look(session_id, watch=request.steps > 0)
        loop = asyncio.get_running_loop()
        async with self._queue.turn(glimpse.version, max(request.steps, 1), tenant=tenant):
            return await loop.run_in_executor(
                self._thread, show, glimpse, request.steps, request.units
            )

    async def _look(self, session_id: str, *, watch: bool) -> Glimpse:
        """The session where it is: in the arena, parked, or at rest."""
        hall = self._hall
        try:
            glimpse = await hall.engine.call(
                look, hall.sessions, hall.engine.watches, session_id, watch=watch
            )
        except SessionNotFound:
            found = await hall.at_rest.find(session_id)
            if found is None:
                raise
            return self._of_record(found)
        if glimpse.row is not None or glimpse.record is not None:
            return glimpse
        entry = await hall.at_rest.entry(session_id)
        if entry is None:
            raise StoreUnavailable(
                f"{session_name(session_id)} is on its way from the store", retry_after=0.1
            )
        return self._of_record(records.decode(session_id, entry.data))

    def _of_record(self, found: Record | Ended) -> Glimpse:
        if isinstance(found, Ended):
            raise found.error()
        return of_record(found, self._hall.at_rest.version_of(found))

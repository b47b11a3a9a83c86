"""Replays: requests for past steps, in a thread of their own so that no step waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from carousel.errors import AuditDamaged, AuditNotFound, InvalidField
from carousel.server import names
from carousel.server.audit import folder
from carousel.server.audit.compute import Again
from carousel.server.audit.head import Head
from carousel.server.audit.log import Log
from carousel.server.audit.reader import NO_LIMIT, Scan, scan
from carousel.server.audit.replay import Replay
from carousel.server.hall import Hall
from carousel.server.names import session_name
from carousel.v1 import session_service_pb2 as pb


class Replays:
    """Answers ReplaySession; segments of several replays take turns."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._thread = ThreadPoolExecutor(1, "carousel-replay")

    async def replay(
        self, session_id: str, request: pb.ReplaySessionRequest
    ) -> AsyncIterator[pb.ReplaySessionResponse]:
        begin = request.from_step
        end = request.to_step if request.HasField("to_step") else NO_LIMIT
        if end < begin:
            raise InvalidField(
                f"to_step must be at least from_step, {begin}, got {end}", field="to_step"
            )
        found = await self._scan(session_id)
        if found.damage and end > found.index:
            raise AuditDamaged(
                f"the audit log of {session_name(session_id)} holds up to step {found.index} only: "
                f"{found.damage}",
                metadata={"step_index": str(found.index)},
            )
        # Whatever can be refused is refused before the first answer.
        heads = {s.head.to_payload(): s.head for s in found.segments if s.begin < end}
        serving = self._hall.registry.serving
        versions = {
            one.model: serving(names.ModelRef.of_version(one.model)) for one in heads.values()
        }

        def again(head: Head) -> Again:
            return Again(head, versions[head.model])

        replay = Replay(found, begin, end, request.verify_only, again)
        loop, messages = asyncio.get_running_loop(), iter(replay)
        while message := await loop.run_in_executor(self._thread, next, messages, None):
            yield message
        if replay.mismatches:
            self._hall.metrics.audit.mismatches.inc(replay.mismatches)

    async def _scan(self, session_id: str) -> Scan:
        """A log, verified as far as it holds. Raises AuditNotFound."""
        engine = self._hall.engine
        log, ended_audited = await engine.call(self._look, session_id)
        position = await asyncio.wrap_future(engine.recorder.writer.position(log))
        own = folder.folder_of(self._hall.settings.audit_folder, session_id)
        loop = asyncio.get_running_loop()
        parts = await loop.run_in_executor(self._thread, folder.parts_in, own)
        if not parts:
            raise AuditNotFound(f"there is no audit log of {session_name(session_id)}")
        parts = folder.newest_life(parts)
        found = await loop.run_in_executor(self._thread, scan, session_id, parts, position)
        if ended_audited and not found.ended and not found.damage:
            found.damage = "the session's end is missing"
        return found

    def _look(self, session_id: str) -> tuple[Log | None, bool]:
        """The log that is being written, and whether the session ended with one."""
        table = self._hall.engine.table
        slot, ended = table.slots.get(session_id), table.departed.ended(session_id)
        return (
            None if slot is None else table.audited.get(slot),
            slot is None and ended is not None and ended.audited,
        )

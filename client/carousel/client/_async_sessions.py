"""The part of AsyncClient that makes, finds and steps sessions."""

# ruff: noqa: ASYNC109 - a timeout is a gRPC deadline here, which the server is told

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Literal, overload

import numpy.typing as npt

from carousel.client import _replay_values as replay
from carousel.client import _session_calls as calls
from carousel.client._async_replay import AsyncReplay
from carousel.client._async_session import AsyncSession
from carousel.client._async_transport import AsyncTransport
from carousel.client._call import Call
from carousel.client._coalescer import Coalescer
from carousel.client._events import Event
from carousel.client._inputs import Floats, Input
from carousel.client._inspection import Inspection
from carousel.client._opening import Opening
from carousel.client._priority import Priority
from carousel.client._session_values import SessionInfo, Snapshot
from carousel.client._step_many import Batch
from carousel.client._times import Seconds
from carousel.client._turn import Turns
from carousel.errors import CarouselError, SessionExists
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb


class AsyncSessions:
    """The methods of AsyncClient for sessions."""

    _transport: AsyncTransport
    _coalescers: dict[tuple[str, int, Priority, bool], Coalescer]

    def session(
        self,
        model: str,
        *,
        session_id: str | None = None,
        ttl: Seconds | None = None,
        lifetime: Seconds | None = None,
        rewind_depth: int = 0,
        durability: str | None = None,
        audit: bool = False,
        initial_state: Mapping[str, npt.ArrayLike] | None = None,
        prefix: Input | str | None = None,
        priority: Priority = "interactive",
        timeout: float | None = None,
    ) -> Opening:
        """Make a session: `await` it, or leave its `async with` block to end it.

        `session_id` is 1 to 63 of a-z, 0-9 and '-', by default random. It ends `ttl` seconds after
        its last use (default: the server's), and `lifetime` seconds after now (default: never).
        `rewind_depth` earlier states are kept, 0 to 64. `durability` is memory, async or sync
        (default: the server's). With `audit` all inputs are logged, so that `replay` can reproduce
        every output. `initial_state` has the state schema's tensors by name, each [L, H]. `prefix`
        (text, [T] tokens or [T, D] features) is fed before the session begins; the server remembers
        where it leads to, and the next session with the same prefix costs no steps. `priority` is
        of its steps, chunks and generations: "bulk" rides in what interactive sessions leave over,
        and is refused first (QueueFull). Raises ModelNotFound, VersionNotFound, ModelNotLoaded,
        ModelNotStepwise, SessionExists, SessionCapacity, InvalidField, StoreUnwritable,
        ServerDraining; for the prefix what `Session.chunk` raises, NoTokenizer and NonFiniteResult.
        """
        chosen = None if session_id else calls.new_id()
        call = calls.create(
            model,
            session_id or chosen or "",
            ttl=ttl,
            lifetime=lifetime,
            rewind_depth=rewind_depth,
            durability=durability,
            audit=audit,
            initial_state=initial_state,
            prefix=prefix,
        )
        return Opening(lambda: self._make(call, chosen, priority, timeout))

    def attach(
        self,
        name: str,
        *,
        priority: Priority = "interactive",
        timeout: float | None = None,
    ) -> Opening:
        """Take a session over, by its name or id: who held it before can't step it any more.

        Raises SessionNotFound, SessionEnded.
        """

        async def attach() -> AsyncSession:
            made = await self._transport.call(calls.attach(name), timeout)
            return self._session(made, priority)

        return Opening(attach)

    def import_session(
        self,
        snapshot: Snapshot,
        *,
        model: str | None = None,
        session_id: str | None = None,
        ttl: Seconds | None = None,
        lifetime: Seconds | None = None,
        rewind_depth: int = 0,
        durability: str | None = None,
        audit: bool = False,
        priority: Priority = "interactive",
        timeout: float | None = None,
    ) -> Opening:
        """Make a session that goes on from a snapshot, by default on the version it names.

        Raises SnapshotDamaged, SnapshotMismatch, and what `session` raises.
        """
        chosen = None if session_id else calls.new_id()
        call = calls.import_(
            snapshot,
            session_id or chosen or "",
            model=model,
            ttl=ttl,
            lifetime=lifetime,
            rewind_depth=rewind_depth,
            durability=durability,
            audit=audit,
        )
        return Opening(lambda: self._make(call, chosen, priority, timeout))

    async def get_session(self, name: str, *, timeout: float | None = None) -> SessionInfo:
        """Describe a session, also for an hour after its end. Raises SessionNotFound."""
        return await self._transport.call(calls.get(name), timeout)

    async def list_sessions(
        self, *, model: str | None = None, timeout: float | None = None
    ) -> AsyncIterator[SessionInfo]:
        """All live sessions, of a model or one of its versions, a page at a time."""
        token = ""
        while True:
            call = calls.list_page(model, token)
            sessions, token = await self._transport.call(call, timeout)
            for one in sessions:
                yield one
            if not token:
                return

    async def delete_session(self, name: str, *, timeout: float | None = None) -> None:
        """End a session, whoever holds it. Raises SessionNotFound, SessionEnded."""
        await self._transport.call(calls.delete(name), timeout)

    async def inspect_session(
        self, name: str, *, steps: int = 64, units: int = 0, timeout: float | None = None
    ) -> Inspection:
        """Look inside a session; changes nothing, not even when it ends.

        Asking for `steps`, at most 256, begins to watch it: for 60 s, which each call renews, the
        server keeps what its steps bring, and shows the latest of those that came since. `units`
        asks for the values of the units too, in at most so many groups (256). With `steps` 0 only
        the state is shown. Raises SessionNotFound, SessionEnded, InvalidField, ModelNotLoaded,
        and WatchCapacity where too many sessions are watched.
        """
        return await self._transport.call(calls.inspect(name, steps, units), timeout)

    def replay(
        self,
        session: str | AsyncSession,
        *,
        start: int = 0,
        stop: int | None = None,
        verify_only: bool = False,
        timeout: float | None = None,
    ) -> AsyncReplay:
        """Compute past steps of an audited session again, and compare: an iterator over steps.

        `start` is the first step index, `stop` the one to end before (default: all). Steps come
        in the order in which they were committed; those that a rewind, a reset or a crash undid
        are among them, marked `superseded`. The whole log is verified first. Works after the
        session's end too. With `verify_only` inputs and outputs stay on the server. Afterwards
        `summary` says what was found. Raises AuditNotFound, AuditDamaged, ModelNotLoaded,
        SnapshotMismatch.
        """
        name = session if isinstance(session, str) else session.name
        request = replay.request(name, start=start, stop=stop, verify_only=verify_only)
        seconds = replay.LONGEST if timeout is None else timeout
        return AsyncReplay(
            self._transport,
            lambda: self._transport.stream(
                replay.PATH, request, pb.ReplaySessionResponse, timeout=seconds
            ),
        )

    @overload
    async def step_many(
        self,
        sessions: Sequence[AsyncSession],
        xs: Input,
        *,
        return_errors: Literal[False] = False,
        timeout: float | None = None,
    ) -> Floats: ...

    @overload
    async def step_many(
        self,
        sessions: Sequence[AsyncSession],
        xs: Input,
        *,
        return_errors: Literal[True],
        timeout: float | None = None,
    ) -> tuple[Floats, dict[int, CarouselError]]: ...

    async def step_many(
        self,
        sessions: Sequence[AsyncSession],
        xs: Input,
        *,
        return_errors: bool = False,
        timeout: float | None = None,
    ) -> Floats | tuple[Floats, dict[int, CarouselError]]:
        """One step of N sessions in one message: xs is [N, D] features or [N] tokens; gives [N, O].

        Sessions fail alone. When some do, StepErrors is raised, which has the others' outputs;
        with `return_errors` the outputs, NaN where a session failed, come with a dict of errors
        by place. Sessions of several model versions or priorities travel as one message each;
        rows of a narrower one end in NaN.
        """
        batch = Batch(sessions, xs, self._transport.link)
        held = sorted(sessions, key=lambda one: one.name)  # in one order: no deadlock
        turns = [session._turn for session in held]
        async with Turns(turns):
            for session in held:
                if session._is_unready:
                    await session._ready(timeout)
            for part in batch.parts():
                try:
                    response = await self._transport.step(
                        part.request, shard=part.shard, timeout=timeout, patient=batch.survives
                    )
                except CarouselError as error:
                    batch.fail(part, error)
                else:
                    batch.take(part, response)
            for place in batch.lost:
                try:
                    batch.found(place, await sessions[place]._send(batch.item(place), timeout))
                except CarouselError as error:
                    batch.found(place, error)
        return batch.result(return_errors=return_errors)

    async def _make(
        self,
        call: Call[calls.Made],
        chosen_id: str | None,
        priority: Priority,
        timeout: float | None,
    ) -> AsyncSession:
        """Create or import; `chosen_id` is set when the client itself chose the id.

        Then an id that is taken is one that a lost attempt of this very call took.
        """
        try:
            made = await self._transport.call(call, timeout)
        except SessionExists:
            if chosen_id is None:
                raise
            made = await self._transport.call(calls.attach(chosen_id), timeout)
        self._transport.link.tell(Event("session_created", session=made.name))
        return self._session(made, priority)

    def _session(self, made: calls.Made, priority: Priority) -> AsyncSession:
        waits = made.durability == session_pb2.DURABILITY_SYNC  # for the store, at every step
        key = (made.model_version, made.shard, priority, waits)
        coalescer = self._coalescers.get(key)
        if coalescer is None:
            coalescer = self._coalescers[key] = Coalescer(self._transport, made.shard)
        return AsyncSession(self._transport, coalescer, made, priority)

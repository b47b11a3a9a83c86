"""AsyncSession: one stream of steps with its own recurrent state, for an event loop."""

# ruff: noqa: ASYNC109 - a timeout is a gRPC deadline here, which the server is told

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Self

from carousel.client import _generation, _session_calls
from carousel.client._async_stepping import AsyncStepping
from carousel.client._async_token_stream import AsyncTokenStream
from carousel.client._cursor import ALL, Item
from carousel.client._events import Event
from carousel.client._generation import Prompt, Sampling
from carousel.client._inference_calls import output_mode
from carousel.client._inputs import Floats, Input, chunk_input, step_input
from carousel.client._inspection import Inspection
from carousel.client._session_values import SessionInfo, Snapshot
from carousel.client._times import Seconds
from carousel.errors import (
    CarouselError,
    NotFound,
    SessionFenced,
)


class AsyncSession(AsyncStepping):
    """One stream of steps with its own recurrent state, pinned to a model version.

    Leaving its `async with` block ends the session on the server. Tasks of one event loop may
    share it: their steps are taken one after the other, in the order they came.

    Steps that tasks await in the same tick of the loop travel as one message. Every step that was
    sent is fed exactly once, whatever happens to the connection, or to the task that awaits it.
    When the answer does not come (DeadlineExceeded, ServerUnreachable, a cancelled task),
    `unsettled` is True: `settle` brings that very step to its end and gives its output, and so
    does the next use of the session. Calling `step` again instead would feed the input a second
    time. A task that is cancelled before its step was sent feeds nothing.
    """

    async def step(self, x: Input, *, timeout: float | None = None) -> Floats:
        """Take one step: x is [D] features or a token; gives [O] float32.

        As `Session.step`, and coalesced with the steps that other tasks await. The deadline begins
        when the session's earlier steps are done.
        """
        width, data = step_input(x)
        turn, cursor, ticket = self._turn, self._cursor, self._ticket
        if turn.taken:
            await turn.wait()
        else:
            turn.taken = True
        try:
            if cursor.open is not None or self._generation is not None:
                await self._ready(timeout)
            if cursor.is_far_ahead:
                await self._catch_up(timeout)
            item = Item(width, 1, data, ALL, False)
            seconds = self._transport.timeout if timeout is None else timeout
            future = self._coalescer.submit(ticket, item, seconds)
            try:
                return await future
            except asyncio.CancelledError:
                self._coalescer.abandon(ticket)
                raise
        finally:
            turn.leave()

    async def chunk(
        self,
        xs: Input,
        *,
        outputs: Literal["all", "last", "none"] = "all",
        timeout: float | None = None,
    ) -> Floats:
        """Take several steps at once: xs is [T, D] features or [T] tokens.

        Gives [T, O] for "all", [O] for "last", [0, O] for "none". Raises what `step` raises, and
        ChunkTooLong.
        """
        mode = output_mode(outputs)
        width, steps, data = chunk_input(xs)
        async with self._turn:
            await self._ready(timeout)
            return await self._ride(Item(width, steps, data, mode, True), timeout)

    async def settle(self, *, timeout: float | None = None) -> Floats | None:
        """The output of the step or chunk whose answer never came; None when there is none."""
        async with self._turn:
            item = self._cursor.open
            if item is not None:
                return await self._settle(item, timeout)
            found, self._ticket.unclaimed = self._ticket.unclaimed, None
            if isinstance(found, CarouselError):
                raise found
            return found

    def generate(
        self,
        prompt: Prompt = "",
        *,
        max_tokens: int = 256,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        log_probabilities: int | None = None,
        timeout: float | None = None,
    ) -> AsyncTokenStream:
        """Feed a prompt and iterate over the tokens that follow; options as in `Client.generate`.

        Without a prompt the first token is sampled from the session's last output. Every token
        that is made is also fed, exactly once, whatever happens to the connection, and to the
        server of a session that survives it. The next use of the session ends a generation that
        still runs.
        """
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            stop=stop,
            seed=seed,
            log_probabilities=log_probabilities,
        )
        generation = _generation.Generation(_generation.request(prompt, sampling), self._cursor)
        seconds = sampling.deadline(timeout, self._transport.timeout)

        async def prepare() -> None:
            async with self._turn:
                await self._ready(timeout)
                generation.begin()
                self._generation = generation

        async def recover(end: float) -> None:
            async with self._turn:
                if self._generation is generation:  # nobody has used the session since
                    await self._recover(end)

        return AsyncTokenStream(self._transport, generation, seconds, prepare, recover)

    async def fork(
        self,
        count: int | None = None,
        *,
        session_ids: Sequence[str] = (),
        timeout: float | None = None,
    ) -> list[AsyncSession]:
        """Copies that go on from the same state: all are made, or none.

        `count` is 1 to 10,000, by default as many as `session_ids`, or else 1. Raises SessionEnded,
        SessionExists, SessionCapacity.
        """
        call = _session_calls.fork(self.name, count, session_ids)
        async with self._turn:
            await self._ready(timeout)
            made = await self._call(lambda: call, timeout)
        for one in made:
            self._transport.link.tell(Event("session_created", session=one.name))
        return [AsyncSession(self._transport, self._coalescer, one, self._priority) for one in made]

    async def rewind(
        self,
        *,
        steps: int | None = None,
        step_index: int | None = None,
        bookmark: str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Go back by `steps` (0 only ends a quarantine), to where `step_index` was next, or to a
        bookmark.

        Raises RewindUnavailable, which names the steps that are kept, SessionEnded, SessionFenced.
        """
        _session_calls.check_rewind(steps, step_index, bookmark)
        async with self._turn:
            await self._ready(timeout)
            await self._move(
                lambda: _session_calls.rewind_to(
                    self._cursor, steps=steps, step_index=step_index, bookmark=bookmark
                ),
                timeout,
                back=True,
            )

    async def bookmark(self, name: str, *, timeout: float | None = None) -> None:
        """Give the present state a name for `rewind`; a name that is taken moves here."""
        async with self._turn:
            await self._ready(timeout)
            self._learn(
                await self._call(
                    lambda: _session_calls.bookmark(self.name, self.handle, name), timeout
                )
            )

    async def remove_bookmark(self, name: str, *, timeout: float | None = None) -> None:
        """Forget a bookmark; nothing happens when there is none."""
        async with self._turn:
            info = await self._call(
                lambda: _session_calls.bookmark(self.name, self.handle, name, remove=True), timeout
            )
            self._learn(info)

    async def migrate(self, model: str, *, timeout: float | None = None) -> None:
        """Go on with another version that has the same state schema; state and index stay.

        Raises SnapshotMismatch, ModelNotFound, ModelNotLoaded, SessionEnded, SessionFenced.
        """
        async with self._turn:
            await self._ready(timeout)
            await self._move(lambda: _session_calls.migrate(self.name, self.handle, model), timeout)

    async def reset(self, *, timeout: float | None = None) -> None:
        """Go back to the initial state and step 0; ends a quarantine."""
        async with self._turn:
            self._stop_generation()
            await self._move(
                lambda: _session_calls.reset(self.name, self.handle), timeout, back=True
            )

    async def export(self, *, timeout: float | None = None) -> Snapshot:
        """The state as a value, for `Client.import_session`. The session goes on."""
        async with self._turn:
            await self._ready(timeout)
            return await self._call(lambda: _session_calls.export(self.name), timeout)

    async def touch(
        self, *, ttl: Seconds | None = None, timeout: float | None = None
    ) -> SessionInfo:
        """Count as a use; `ttl` in seconds or as a timedelta is the new idle time."""
        async with self._turn:
            return self._learn(
                await self._call(lambda: _session_calls.touch(self.name, ttl), timeout)
            )

    async def refresh(self, *, timeout: float | None = None) -> SessionInfo:
        """Ask the server for a new description, also after the session's end."""
        return self._learn(await self._call(lambda: _session_calls.get(self.name), timeout))

    async def inspect(
        self, *, steps: int = 64, units: int = 0, timeout: float | None = None
    ) -> Inspection:
        """Look inside, as `Client.inspect_session` does; the session stays as it is."""
        call = _session_calls.inspect(self.name, steps, units)
        return await self._call(lambda: call, timeout)

    async def close(self, *, timeout: float | None = None) -> None:
        """End the session. Nothing happens when it has ended, or another holder took it over."""
        async with self._turn:
            self._stop_generation()
            try:
                await self._transport.call(_session_calls.delete(self.name, self.handle), timeout)
            except (NotFound, SessionFenced):
                return
            self._cursor.end()
        self._transport.link.tell(Event("session_ended", session=self.name))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except (CarouselError, RuntimeError):
            if error is None:
                raise

"""A modest client beside a greedy one: what counts is the latency of the modest one's steps."""

from __future__ import annotations

import asyncio

from tests.bench.closed_loop import ClosedLoop, Shape, make_sessions
from tests.bench.sample import Sample

WARM_UP = 0.5  # seconds that the greedy client has to fill the queue


class Beside:
    """Two closed loops of two tenants, each with connections of its own."""

    def __init__(self, port: int, model: str, modest: Shape, greedy: Shape | None) -> None:
        self._modest = ClosedLoop(
            port, modest, make_sessions(port, model, modest.sessions, tenant=modest.tenant)
        )
        self._greedy = None
        if greedy is not None:
            self._greedy = ClosedLoop(
                port, greedy, make_sessions(port, model, greedy.sessions, tenant=greedy.tenant)
            )

    async def open(self) -> None:
        await self._modest.open()
        if self._greedy is not None:
            await self._greedy.open()

    async def close(self) -> None:
        await self._modest.close()
        if self._greedy is not None:
            await self._greedy.close()

    async def run(self, seconds: float) -> Sample:
        """The modest one's steps."""
        if self._greedy is None:
            return await self._modest.run(seconds)
        greedy = asyncio.create_task(self._greedy.run(WARM_UP + seconds))
        await asyncio.sleep(WARM_UP)
        sample = await self._modest.run(seconds)
        sample.extra["greedy_steps_per_second"] = (await greedy).rate
        return sample

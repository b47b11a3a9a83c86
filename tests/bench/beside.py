"""A modest client beside a greedy one: what counts is the latency of the modest one's steps.

It is alone only when the store has all that the greedy one left behind.
"""

from __future__ import annotations

import asyncio

import grpc

from carousel.v1 import admin_service_pb2, admin_service_pb2_grpc
from tests.bench.closed_loop import ClosedLoop, Shape, make_sessions
from tests.bench.sample import Sample

WARM_UP = 0.5  # seconds that the greedy client has to fill the queue


class Beside:
    """Two closed loops, each with connections of its own; the greedy one's model may be `other`."""

    def __init__(
        self, port: int, model: str, modest: Shape, greedy: Shape | None, other: str = ""
    ) -> None:
        self._port = port
        self._modest = ClosedLoop(
            port, modest, make_sessions(port, model, modest.sessions, tenant=modest.tenant)
        )
        self._greedy = None
        if greedy is not None:
            self._greedy = ClosedLoop(
                port,
                greedy,
                make_sessions(port, other or model, greedy.sessions, tenant=greedy.tenant),
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
            await self._settle()
            return await self._modest.run(seconds)
        greedy = asyncio.create_task(self._greedy.run(WARM_UP + seconds))
        await asyncio.sleep(WARM_UP)
        sample = await self._modest.run(seconds)
        sample.extra["greedy_steps_per_second"] = (await greedy).rate
        return sample

    async def _settle(self) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            service = admin_service_pb2_grpc.AdminServiceStub(channel)
            asked = admin_service_pb2.GetServerInfoRequest()
            while (await service.GetServerInfo(asked)).store.lag_steps:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

"""W4: sessions are opened and closed all the time while many more are live."""

from __future__ import annotations

import asyncio
import time
from collections import deque

import grpc
import numpy as np

from carousel.v1 import session_service_pb2 as pb
from carousel.v1 import session_service_pb2_grpc
from tests.bench import messages
from tests.bench.sample import Sample
from tests.bench.wire import Connection, WireError, request_headers


class Churn:
    """`live` sessions; `flying` tasks open one and close the oldest, as fast as they can.

    A step of the sample is one session opened and one closed.
    """

    def __init__(self, port: int, model: str, live: int, flying: int) -> None:
        self._port, self._model, self._live, self._flying = port, model, live, flying
        self._names: deque[str] = deque()

    async def open(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            service = session_service_pb2_grpc.SessionServiceStub(channel)
            request = pb.CreateSessionRequest(model=f"models/{self._model}")
            name = service.CreateSession(request).name
            copies = pb.ForkSessionRequest(name=name, count=self._live - 1)
            self._names.extend([name, *(s.name for s in service.ForkSession(copies).sessions)])
        self._create = request.SerializeToString()
        self._connection = await Connection.to("127.0.0.1", self._port)
        authority = f"127.0.0.1:{self._port}"
        self._create_headers = request_headers(f"/{messages.SESSIONS}/CreateSession", authority)
        self._delete_headers = request_headers(f"/{messages.SESSIONS}/DeleteSession", authority)

    async def close(self) -> None:
        self._connection.close()

    async def run(self, seconds: float) -> Sample:
        latencies: list[float] = []
        start = time.perf_counter()
        end = start + seconds

        async def go_on() -> None:
            while (begin := time.perf_counter()) < end:
                made = await self._call(self._create_headers, self._create)
                self._names.append(messages.Session.FromString(made).name)
                latencies.append(time.perf_counter() - begin)
                oldest = pb.DeleteSessionRequest(name=self._names.popleft())
                await self._call(self._delete_headers, oldest.SerializeToString())

        await asyncio.gather(*(go_on() for _ in range(self._flying)))
        taken = time.perf_counter() - start
        return Sample(len(latencies), taken, np.array(latencies), {"live": float(len(self._names))})

    async def _call(self, headers: bytes, message: bytes) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._connection.call(headers, message, future.set_result)
        await asyncio.wait((future,), timeout=30)
        if self._connection.failure:
            raise self._connection.failure
        if not future.done():
            raise WireError("a call has no answer within 30 s")
        return future.result()

"""W1, the closed loop: each group of sessions sends its next step when it has the last answer.

A group is what shares a message: one session, or 64, or 256. It travels as a unary call or on
one of a number of streams. The client is the light one, so that the server sets the pace.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import numpy as np

from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import session_service_pb2, session_service_pb2_grpc
from tests.bench import messages
from tests.bench.models import INPUT, OUTPUT, POOL, Floats, inputs
from tests.bench.sample import Sample
from tests.bench.wire import Connection, WireError, request_headers

GRACE = 30.0  # seconds that the last answers of a block may take


@dataclass(frozen=True, slots=True)
class Shape:
    """`streams` 0: unary calls. Groups share the streams, and streams the connections, evenly."""

    sessions: int
    per_message: int = 1
    streams: int = 0
    connections: int = 1
    tenant: str = ""
    length: int = 1  # steps of each item
    bulk: bool = False


@dataclass(slots=True, eq=False)
class Group:
    """The sessions that share a message; they are always at the same step."""

    handles: list[int]
    head: bytes
    inputs: list[bytes]  # one for each of the pool
    connection: Connection
    length: int = 1
    stream: int = 0
    index: int = 0  # of the next message
    left: int = 0
    refused: int = 0
    sent: float = 0.0

    def message(self) -> bytes:
        count = len(self.handles)
        return (
            self.head
            + messages.indexes(self.index * self.length, count)
            + self.inputs[self.index % POOL]
        )


def make_sessions(
    port: int, model: str, count: int, *, tenant: str = "", **terms: Any
) -> list[int]:
    """Handles of new sessions: one is made and forked. `terms` are of CreateSessionRequest."""
    metadata = (("x-carousel-tenant", tenant),) if tenant else None
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        service = session_service_pb2_grpc.SessionServiceStub(channel)
        first = service.CreateSession(
            session_service_pb2.CreateSessionRequest(model=f"models/{model}", **terms),
            metadata=metadata,
        )
        found = [first.handle]
        while len(found) < count:
            more = min(count - len(found), 10_000)
            request = session_service_pb2.ForkSessionRequest(name=first.name, count=more)
            found += [
                session.handle
                for session in service.ForkSession(request, metadata=metadata).sessions
            ]
        return found


class ClosedLoop:
    """Sessions of one server that are stepped as `shape` says."""

    method = f"/{messages.INFERENCE}/Step"

    def __init__(self, port: int, shape: Shape, handles: list[int]) -> None:
        self._port = port
        self._shape = shape
        self._handles = handles
        self._rows: dict[int, Floats] | None = None  # outputs, when they are looked at
        self._idle: asyncio.Future[None]
        self._flying = 0
        self._end = 0.0

    async def open(self) -> None:
        shape = self._shape
        self._connections = [
            await Connection.to("127.0.0.1", self._port) for _ in range(shape.connections)
        ]
        authority = f"127.0.0.1:{self._port}"
        self._headers = request_headers(self.method, authority, shape.tenant)
        path = f"/{messages.INFERENCE}/StreamSteps"
        streamed = request_headers(path, authority, shape.tenant)
        streams = []
        for place in range(shape.streams):
            connection = self._connections[place % shape.connections]
            streams.append((connection, connection.open(streamed, self._take_streamed)))
        self.groups = []
        values = inputs(shape.sessions * shape.length)
        for place, begin in enumerate(range(0, shape.sessions, shape.per_message)):
            part = slice(begin, min(begin + shape.per_message, shape.sessions))
            connection, stream = self._connections[place % shape.connections], 0
            if streams:
                connection, stream = streams[place % len(streams)]
            handles = self._handles[part]
            steps = slice(part.start * shape.length, part.stop * shape.length)
            self.groups.append(
                Group(
                    handles,
                    messages.handles(handles)
                    + messages.kind(len(handles), shape.length, bulk=shape.bulk),
                    [messages.features(one[steps]) for one in values],
                    connection,
                    shape.length,
                    stream,
                )
            )
        self._by_handle = {handle: group for group in self.groups for handle in group.handles}

    async def close(self) -> None:
        for connection in self._connections:
            connection.close()

    async def outputs(self, steps: int, sessions: int) -> Floats:
        """The next outputs of the first sessions: [sessions, steps, O]."""
        found = []
        for _ in range(steps):
            self._rows = {}
            await self.run(0.0)
            found.append(np.stack([self._rows[handle] for handle in self._handles[:sessions]]))
        self._rows = None
        return np.stack(found, 1)

    async def run(self, seconds: float) -> Sample:
        """Go on for so long, then wait for what is on its way; 0: one step of each."""
        self._steps, self._latencies = 0, list[float]()
        self._idle = asyncio.get_running_loop().create_future()
        self._flying = len(self.groups)
        begin = time.perf_counter()
        self._end = begin + seconds
        for group in self.groups:
            self._send(group)
        end = asyncio.get_running_loop().time() + seconds + GRACE
        while not self._idle.done():
            await asyncio.wait((self._idle,), timeout=0.5)
            self._check(late=asyncio.get_running_loop().time() > end)
        self._idle.result()
        return Sample(self._steps, seconds, np.array(self._latencies))

    def _check(self, *, late: bool) -> None:
        for connection in self._connections:
            if connection.failure:
                raise connection.failure
        if late:
            raise WireError(f"{self._flying} messages have no answer")

    def _send(self, group: Group) -> None:
        group.sent = time.perf_counter()
        group.left = len(group.handles)
        message = self.message(group)
        if self._shape.streams:
            group.connection.send(group.stream, messages.field(1, message))
        else:
            group.connection.call(self._headers, message, partial(self._take_unary, group))

    def message(self, group: Group) -> bytes:
        return group.message()

    def _take_unary(self, group: Group, message: bytes) -> None:
        if self._rows is not None:
            self._look(pb.StepResponse.FromString(message))
        elif len(message) < 4 * OUTPUT * len(group.handles):
            self._fail(pb.StepResponse.FromString(message))
        group.left = 0
        self._done(group, time.perf_counter())

    def _take_streamed(self, message: bytes) -> None:
        response = pb.StreamStepsResponse.FromString(message).step
        if self._rows is not None:
            self._look(response)
        if response.errors:
            self._fail(response)
        now = time.perf_counter()
        for handle in response.handles:
            group = self._by_handle[handle]
            group.left -= 1
            if not group.left:
                self._done(group, now)

    def _done(self, group: Group, now: float) -> None:
        group.index += 1
        if now <= self._end:
            self._steps += len(group.handles) * group.length
            self._latencies.append(now - group.sent)
            self._send(group)
            return
        self._flying -= 1
        if not self._flying and not self._idle.done():
            self._idle.set_result(None)

    def _look(self, response: pb.StepResponse) -> None:
        assert self._rows is not None
        rows = np.frombuffer(response.outputs.data, np.float32).reshape(-1, OUTPUT)
        self._rows.update(zip(response.handles, rows, strict=True))

    def _fail(self, response: pb.StepResponse) -> None:
        if not self._idle.done():
            self._idle.set_exception(WireError(f"a step failed: {response.errors[:1]}"))


class HeldLoop(ClosedLoop):
    """Client-held state: h and c travel with every request and come back with every answer."""

    method = "/carousel.bench.Held/Step"

    def __init__(self, port: int, shape: Shape, state_bytes: int) -> None:
        super().__init__(port, shape, list(range(1, shape.sessions + 1)))
        self._states = {handle: bytes(state_bytes) for handle in self._handles}
        self._bare = [one.tobytes() for one in inputs(shape.sessions)]

    def message(self, group: Group) -> bytes:
        place = (group.handles[0] - 1) * INPUT * 4
        pool: bytes = self._bare[group.index % POOL]
        return pool[place : place + INPUT * 4] + self._states[group.handles[0]]

    def _take_unary(self, group: Group, message: bytes) -> None:
        handle = group.handles[0]
        self._states[handle] = message[OUTPUT * 4 :]
        if self._rows is not None:
            self._rows[handle] = np.frombuffer(message[: OUTPUT * 4], np.float32)
        self._done(group, time.perf_counter())

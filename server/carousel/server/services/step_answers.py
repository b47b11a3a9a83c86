"""The answers to one call for steps, as they come from the engine, on their way to the caller."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from carousel.errors import QueueFull
from carousel.server import one_step, steps
from carousel.server.one_step import OneStep
from carousel.server.refused import Refused
from carousel.server.rpc import Context, Line
from carousel.server.work import NEVER, Answer, Work
from carousel.v1 import inference_service_pb2 as pb

Request = pb.StepRequest | OneStep
STREAM_WINDOW = 65_536  # items of one stream on their way, above which it is not read further
STREAM_ANSWERS = 64  # messages that wait for a slow reader, above which it is not read further
STREAM_BYTES = 64 * 2**20  # of chunks and inputs on their way, or of answers that wait: the same


def deadline_of(context: Context) -> float:
    """The caller's deadline on the clock of time.monotonic."""
    remaining = context.time_remaining()
    return NEVER if remaining is None else time.monotonic() + remaining


class Reply:
    """Collects the answers to one work until all of its items have one."""

    __slots__ = ("answers", "future", "left")

    def __init__(self) -> None:
        self.future: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self.answers: list[Answer] = []
        self.left = 0

    def deliver(self, answer: Answer) -> None:
        self.answers.append(answer)
        self.left -= len(answer.items) + len(answer.errors)
        if self.left <= 0 and not self.future.done():
            self.future.set_result(self.answers)


class Stream:
    """The answers of one stream, coalesced: what one turn finished goes out as one message."""

    def __init__(self, tenant: str, party: str, origin: Mapping[str, str] | None) -> None:
        self.tenant = tenant
        self.party = party
        self.origin = origin
        self.latest: Sequence[int] = ()  # handles of the last message
        self._messages: deque[bytes] = deque()
        self._more: asyncio.Future[None] | None = None  # whoever waits for the next message
        self.flying = 0
        self.flying_bytes = 0
        self.waiting_bytes = 0  # of answers
        self.calm = asyncio.Event()
        self.calm.set()
        self.half_closed = False
        self.drained = False
        self.ended = False
        self.refused = Refused(self.put)
        self._answers: list[Answer] = []
        self._left: dict[Work, int] = {}
        self._bytes: dict[Work, int] = {}  # that each of these takes
        self._loop = asyncio.get_running_loop()

    def expect(self, work: Work, output_size: int) -> None:
        self._left[work] = len(work)
        self._bytes[work] = work.inputs.nbytes
        if work.lengths is not None:  # chunks gather their outputs on the way
            self._bytes[work] += work.outputs_wanted * output_size * 4
        self.flying += len(work)
        self.flying_bytes += self._bytes[work]
        self._look()

    def deliver(self, answer: Answer) -> None:
        if not self._answers:
            self._loop.call_soon(self._flush)
        self._answers.append(answer)
        done = len(answer.items) + len(answer.errors)
        self.flying -= done
        self._left[answer.work] -= done
        if not self._left[answer.work]:
            del self._left[answer.work]
            self.flying_bytes -= self._bytes.pop(answer.work)

    def refuse(self, request: Request, error: QueueFull) -> None:
        """All items of a message, in a little while."""
        self.refused.add(request.handles, request.step_indexes, error)
        self._look()

    def settle(self, work: Work) -> None:
        """A work that was expected was answered as a whole, by what was put or refused."""
        del self._left[work]
        self.flying -= len(work)
        self.flying_bytes -= self._bytes.pop(work)
        if self.half_closed:
            self.refused.tell()
        self._end_if_done()
        self._look()

    def put(self, response: steps.Response) -> None:
        if not isinstance(response, bytes):
            response = response.SerializeToString()
        message = one_step.streamed(response)
        self.waiting_bytes += len(message)
        self._messages.append(message)
        self._wake()
        self._look()

    async def next(self) -> bytes | None:
        """The next message for the caller; None after the last one."""
        while not self._messages:
            if self.ended:
                return None
            self._more = self._loop.create_future()
            await self._more
        return self._messages.popleft()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    async def read(self, line: Line, start: Callable[[Any], None]) -> None:
        """Start every message that comes, while the caller takes the answers."""
        try:
            while (message := await line.read()) is not None:
                if not self.calm.is_set():
                    await self.calm.wait()
                if self.drained:
                    break
                start(message.step)
        finally:
            self.half_close()

    def half_close(self) -> None:
        """No more requests: the stream ends after the last answer."""
        self.half_closed = True
        self.refused.tell()
        self._end_if_done()

    def drain(self) -> None:
        """The server is going: take nothing more, finish what was sent, then say so."""
        self.drained = True
        self.half_close()

    def unfinished(self) -> list[int]:
        """Handles whose steps, or whose last answer, may not have come to the caller."""
        return [handle for work in self._left for handle in work.handles] + list(self.latest)

    def cancel(self) -> None:
        """The caller is gone: what has not been committed vanishes."""
        for work in self._left:
            work.cancelled = True

    def sent(self, message: bytes) -> None:
        self.waiting_bytes -= len(message)
        self._look()

    def _flush(self) -> None:
        answers, self._answers = self._answers, []
        by_width: dict[int, list[Answer]] = {}  # models of different outputs share the stream
        for answer in answers:
            by_width.setdefault(answer.outputs.shape[1], []).append(answer)
        for alike in by_width.values():
            self.put(steps.encode(alike))
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self.half_closed and not self.ended and not self.flying and not self._answers:
            self.ended = True
            self._wake()

    def _look(self) -> None:
        heaviest = max(self.flying_bytes, self.waiting_bytes)
        waiting = len(self._messages)
        full = self.flying >= STREAM_WINDOW or waiting >= STREAM_ANSWERS or self.refused.enough
        if not full and heaviest < STREAM_BYTES:
            self.calm.set()
        else:
            self.calm.clear()

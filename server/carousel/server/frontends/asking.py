"""What a front end asks of the engine through its link, and what comes back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from carousel.errors import CarouselError
from carousel.server.frontends import records
from carousel.server.frontends.link import Link
from carousel.server.work import Work
from carousel.v1 import inference_service_pb2 as pb

NO_STREAM = 0

End = Callable[[pb.StepResponse | CarouselError], None]


@dataclass(slots=True)
class _Asked:
    """A work under way; its answers go where it says, and `end` hears of one for all of it."""

    work: Work
    end: End
    calls: set[int]  # of its stream
    left: int


class Asking:
    """Calls and streams have numbers, by which their answers are known."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Asked] = {}
        self._streams: dict[int, set[int]] = {NO_STREAM: set()}  # with their calls
        self._openings: dict[int, asyncio.Future[None]] = {}

    def ask(
        self,
        message: bytes,
        work: Work,
        end: End,
        *,
        tenant: str,
        party: str,
        request_id: str,
        stream: int = NO_STREAM,
    ) -> int:
        """Send a request, whose work is to be answered; the call's number."""
        call = next(self._numbers)
        calls = self._streams[stream]
        calls.add(call)
        self._asked[call] = _Asked(work, end, calls, len(work))
        record = records.step(
            call,
            message,
            stream=stream,
            deadline=work.deadline,
            tenant=tenant,
            party=party,
            request_id=request_id,
        )
        self._link.send(record)
        return call

    def give_up(self, call: int) -> None:
        """The caller is gone: what has not been committed vanishes."""
        if call in self._asked:
            self._forget(call)
            self._link.send(records.named(records.GONE, call))

    async def open(self, tenant: str) -> int:
        """A new stream's number. Raises what the engine has against it."""
        stream = next(self._numbers)
        self._streams[stream] = set()
        self._openings[stream] = opening = asyncio.get_running_loop().create_future()
        self._link.send(records.named(records.OPEN, stream, tenant.encode()))
        try:
            await opening
        except BaseException:
            self.close(stream)
            raise
        finally:
            self._openings.pop(stream, None)
        return stream

    def close(self, stream: int, unfinished: Sequence[int] = ()) -> None:
        """A stream is over; `unfinished` are handles whose answers may not have arrived."""
        for call in self._streams.pop(stream, ()):
            self._asked.pop(call, None)
        handles = np.array(unfinished, np.uint64).tobytes()
        self._link.send(records.named(records.CLOSE, stream, handles))

    def answered(self, record: bytes) -> None:
        """A record of the engine's about a call; nobody may wait for it any more."""
        number = records.call_of(record)
        asked = self._asked.get(number)
        if asked is None:
            return
        kind = records.kind_of(record)
        if kind == records.ANSWER:
            answer = records.read_answer(record, asked.work)
            asked.left -= len(answer.items) + len(answer.errors)
            if asked.left <= 0:
                self._forget(number)
            asked.work.deliver(answer)
            return
        self._forget(number)
        _, body = records.read_named(record)
        refused = kind == records.REFUSED
        asked.end(records.read_refusal(body) if refused else pb.StepResponse.FromString(body))

    def opened(self, record: bytes) -> None:
        """A stream may begin, or is refused."""
        stream, body = records.read_named(record)
        opening = self._openings.get(stream)
        if opening is None or opening.done():
            return
        if body:
            opening.set_exception(records.read_refusal(body))
        else:
            opening.set_result(None)

    def _forget(self, call: int) -> None:
        self._asked.pop(call).calls.discard(call)

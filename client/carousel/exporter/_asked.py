"""One server that is asked: its channel, what it says, and how often it did not."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import grpc

from carousel.client._channel import Door
from carousel.client._errors import translate
from carousel.client._transport import open_channel
from carousel.errors import CarouselError, DeadlineExceeded
from carousel.v1 import admin_service_pb2 as pb
from carousel.v1 import admin_service_pb2_grpc

log = logging.getLogger("carousel.exporter")

LATE = 0.5  # seconds beyond the deadline, until gRPC itself must have said so


@dataclass(slots=True)
class Question:
    """A call under way."""

    call: grpc.Future[pb.Statistics]
    begin: float
    end: float = 0.0  # on the clock of time.monotonic; 0: not over


class Asked:
    """A server. Several threads may ask it at once."""

    def __init__(self, door: Door) -> None:
        self.target = door.target
        self.errors = 0
        self.seconds = 0.0  # that the last answer took
        self._metadata = door.metadata
        self._tls = door.tls
        self._channel = open_channel(door)
        self._admin = admin_service_pb2_grpc.AdminServiceStub(self._channel)
        self._trouble = ""

    def ask(self, seconds: float) -> Question:
        """Send the question; `answer` waits for what comes."""
        call = self._admin.GetStatistics.future(
            pb.GetStatisticsRequest(), timeout=max(seconds, 0.0), metadata=self._metadata
        )
        question = Question(call, time.monotonic())

        def over(_: object) -> None:
            question.end = time.monotonic()

        call.add_done_callback(over)
        return question

    def answer(self, question: Question, seconds: float) -> pb.Statistics | None:
        """What the server said; None when it did not, which is counted."""
        error: CarouselError
        try:
            message = question.call.result(timeout=max(seconds, 0.0) + LATE)
        except grpc.FutureTimeoutError:
            question.call.cancel()
            error = DeadlineExceeded("it did not answer in time")
        except grpc.FutureCancelledError:
            error = DeadlineExceeded("the exporter is going")
        except grpc.RpcError as failure:
            error = translate(failure, self._tls)
        else:
            self._note(question, "")
            return message
        self.errors += 1
        self._note(question, error.message)
        return None

    def _note(self, question: Question, trouble: str) -> None:
        """Remember how long it took; log when a server goes and when it comes back."""
        self.seconds = (question.end or time.monotonic()) - question.begin
        if trouble and not self._trouble:
            log.warning("%s can't be read: %s", self.target, trouble)
        elif self._trouble and not trouble:
            log.info("%s can be read again", self.target)
        self._trouble = trouble

    def close(self) -> None:
        self._channel.close()

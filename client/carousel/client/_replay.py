"""Replay: the past steps of an audited session, as they are computed again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from carousel.client._replay_values import PATH, ReplayedStep, ReplayView
from carousel.client._transport import Transport
from carousel.v1 import session_service_pb2 as pb


class Replay(ReplayView, Iterator[ReplayedStep]):
    """An iterator over steps, in the order in which they were committed; then it has a summary.

    Dropping it, or `close`, stops the computation.
    """

    def __init__(
        self, transport: Transport, request: pb.ReplaySessionRequest, timeout: float
    ) -> None:
        super().__init__()
        self._transport = transport
        self._call: Any = transport.stream(PATH, request, pb.ReplaySessionResponse, timeout=timeout)
        self._waiting: Iterator[ReplayedStep] = iter(())

    def __next__(self) -> ReplayedStep:
        while (step := next(self._waiting, None)) is None:
            response = None if self._summary else self._transport.read(self._call)
            if response is None:
                raise StopIteration
            self._waiting = self._take(response)
        return step

    def close(self) -> None:
        """Stop it."""
        self._call.cancel()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

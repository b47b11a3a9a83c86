"""Receipts: what a call makes stays once it is known that its answer has gone to whoever asked.

The caller may go, or its deadline come, while the answer is on its way. `hot_calls` sees whether
gRPC could send those of calls that it takes up; of others nobody knows. Between a front end and the
engine's process more can get lost, the front end itself too: there all calls of NEEDED are streams,
of the request, the answer, and then the end of the requests, which is the receipt. Without one all
is undone that was made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import grpc

from carousel.server.flow import ended, sent

NEEDED = frozenset({"CreateSession", "ForkSession", "ImportSession"})
"""Methods that make what nobody would know of, if the answer were lost."""

Context = grpc.aio.ServicerContext[Any, Any]
Act = Callable[[], None]
Acts = list[tuple[Act, Act]]

_acts: ContextVar[Acts | None] = ContextVar("acts", default=None)


def is_awaited() -> bool:
    """Whether it will be known what became of the running call's answer."""
    return _acts.get() is not None


def unless_received(undo: Act, *, received: Act = lambda: None) -> None:
    """Undo what the running call has made, should its answer get lost; else call `received`."""
    acts = _acts.get()
    if acts is not None:
        acts.append((undo, received))


@contextmanager
def awaiting() -> Iterator[None]:
    """Around a handler and the sending of its answer: it got lost if this raises."""
    acts: Acts = []
    _acts.set(acts)
    try:
        yield
    except BaseException:
        for undo, _ in acts:
            undo()
        raise
    for _, received in acts:
        received()


def awaited(
    handle: Callable[[Any, Context], Awaitable[Any]],
) -> Callable[[object, Context], Awaitable[None]]:
    """The handler of a call with one answer, as one that waits for the receipt of it."""

    async def exchange(_: object, context: Context) -> None:
        with awaiting():
            if (request := await context.read()) is not grpc.aio.EOF:
                await sent(context.write(await handle(request, context)))
                await context.read()
            await ended(context)

    return exchange

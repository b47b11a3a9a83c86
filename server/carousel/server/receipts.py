"""Receipts: what a call makes stays once whoever passes its answer on has said that it came.

A front end may lose its caller, or its life, while an answer is on its way to it. So the engine's
process serves the calls of NEEDED as streams: the request, the answer, and then the end of the
requests, which is the receipt. Without one all is undone that was made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc

from carousel.server.flow import ended, sent

NEEDED = frozenset({"CreateSession", "ForkSession", "ImportSession"})
"""Methods that make what nobody would know of, if the answer were lost."""

Context = grpc.aio.ServicerContext[Any, Any]
Undo = Callable[[], None]

_undos: ContextVar[list[Undo] | None] = ContextVar("undos", default=None)


def unless_received(undo: Undo) -> None:
    """Undo what the running call has made, should its answer get lost between the processes."""
    undos = _undos.get()
    if undos is not None:
        undos.append(undo)


def awaited(
    handle: Callable[[Any, Context], Awaitable[Any]],
) -> Callable[[object, Context], Awaitable[None]]:
    """The handler of a call with one answer, as one that waits for the receipt of it."""

    async def exchange(_: object, context: Context) -> None:
        undos: list[Undo] = []
        _undos.set(undos)
        try:
            if (request := await context.read()) is not grpc.aio.EOF:
                await sent(context.write(await handle(request, context)))
                await context.read()
            await ended(context)
        except BaseException:
            for undo in undos:
                undo()
            raise

    return exchange

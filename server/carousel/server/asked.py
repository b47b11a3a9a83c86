"""What the event loop asks another thread to do, as a future."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def asked(
    loop: asyncio.AbstractEventLoop, function: Callable[[], T]
) -> tuple[asyncio.Future[T], Callable[[], None]]:
    """What will come of a function, and what the other thread has to run for it."""
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_result: Callable[[], None]) -> None:
        if not future.done():
            set_result()

    def run() -> None:
        try:
            result = function()
        except Exception as error:
            # A future takes no StopIteration; whoever awaits it would wait for ever.
            failure = RuntimeError(str(error)) if isinstance(error, StopIteration) else error
            loop.call_soon_threadsafe(settle, lambda: future.set_exception(failure))
        else:
            loop.call_soon_threadsafe(settle, lambda: future.set_result(result))

    return future, run

"""The relay: what a caller who has gone began is waited for, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from carousel.server.frontends import relay


async def when_its_caller_has_gone(answer: Callable[[asyncio.Future[str]], Any]) -> str:
    """What comes of a call; `answer` is done to what the engine would answer."""
    engine: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    call = asyncio.ensure_future(relay._to_end(engine))
    await asyncio.sleep(0)  # until it waits
    call.cancel()
    await asyncio.sleep(0)  # until it knows
    answer(engine)
    try:
        return await call
    finally:
        assert engine.done()


def test_what_the_engine_ends_is_known_though_the_caller_has_gone() -> None:
    assert asyncio.run(when_its_caller_has_gone(lambda it: it.set_result("done"))) == "done"


def test_what_an_engine_that_hangs_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "LONGEST", 0.0)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(when_its_caller_has_gone(lambda it: None))

"""Inspection with both clients: plain values, and the same ones."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np

from carousel.client import AsyncClient, Client, Inspection
from tests.client.conftest import Floats
from tests.conftest import RunningServer
from tests.processes import PATIENCE


def plain(value: object) -> object:
    """A dataclass as what can be compared."""
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if dataclasses.is_dataclass(value):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    return value


def without_moment(seen: Inspection) -> object:
    return plain(dataclasses.replace(seen, watched_until=None))


def test_both_clients_see_the_same(server: RunningServer, client: Client, inputs: Floats) -> None:
    with client.session("tiny", durability="memory") as session:
        session.inspect()
        session.chunk(inputs)
        seen = session.inspect(units=4)

        async def look() -> list[Inspection]:
            async with AsyncClient(server.target, timeout=PATIENCE) as other:
                by_name = await other.inspect_session(session.name, units=4)
                async with other.session("tiny") as own:
                    assert (await own.inspect(steps=0)).steps == 0
                return [by_name, await other.inspect_session(session.id, units=4)]

        assert seen.steps == 40
        assert seen.layers[1].gates["forget"].units is not None
        assert seen.layers[1].gates["forget"].units.shape == (40, 4)
        for other in asyncio.run(look()):
            assert without_moment(other) == without_moment(seen)

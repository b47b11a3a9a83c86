"""Isolation: whatever becomes of one row, its neighbours and its successors see nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from carousel.v1 import session_service_pb2 as pb
from tests.conftest import RunningServer, running
from tests.server.contract import Floats, Wire

RIDERS = 256


@pytest.fixture(scope="module")
def server(model_store: Path) -> Iterator[RunningServer]:
    """A server of its own: the sessions of these tests stay."""
    with running(store=model_store, shipped=False) as server:
        yield server


@pytest.fixture
def wire(server: RunningServer) -> Iterator[Wire]:
    with grpc.insecure_channel(server.target) as channel:
        yield Wire(channel)


def write_row(server: RunningServer, handle: int, name: str, layer: int, value: float) -> None:
    """Put a value into a session's state, as a broken kernel or broken memory would."""
    hall = server.server.hall

    def write() -> None:
        slot = hall.engine.table.slot_of(handle)
        assert slot is not None
        version = hall.sessions.version_of(slot)
        rows = hall.engine.table.row[slot : slot + 1]
        state = version.arena.read(rows)
        version.schema.split(state)[name][0, layer, 3] = value
        version.arena.write(rows, state)

    async def call() -> None:
        await hall.engine.call(write)

    server.run(call())


def one_turn(wire: Wire, inputs: Floats, handles: list[int], index: int) -> tuple[Floats, set[int]]:
    """Step all sessions in one message: outputs of those that went well, and who did not."""
    response = wire.step(handles, [index] * len(handles), inputs)
    failed = {error.item for error in response.errors}
    assert {error.reason for error in response.errors} <= {"SESSION_QUARANTINED"}
    return np.frombuffer(response.outputs.data, np.float32).reshape(-1, 2), failed


@pytest.mark.parametrize("name", ["h", "c"])
@pytest.mark.parametrize("layer", [0, 1])
def test_nan_in_one_of_256_rows_changes_no_bit_of_the_others(
    wire: Wire, server: RunningServer, name: str, layer: int
) -> None:
    inputs = np.random.default_rng(2).standard_normal((RIDERS, 3)).astype(np.float32)
    victim = 100
    runs = []
    for poisoned in (False, True):
        handles = [wire.create().handle for _ in range(RIDERS)]
        one_turn(wire, inputs, handles, 0)
        if poisoned:
            write_row(server, handles[victim], name, layer, np.nan)
        runs.append(one_turn(wire, inputs, handles, 1))
    (clean, nobody), (others, failed) = runs
    assert nobody == set()
    assert failed == {victim}
    np.testing.assert_array_equal(others, np.delete(clean, victim, axis=0))


def test_nothing_of_a_freed_row_is_left_for_the_next_session(
    wire: Wire, server: RunningServer
) -> None:
    inputs = np.random.default_rng(3).standard_normal((4, 3)).astype(np.float32)
    truth = wire.outputs([wire.create().handle], [0], inputs, [4])
    sessions = [wire.create(rewind_depth=2) for _ in range(64)]
    for session in sessions:
        wire.outputs([session.handle], [0], inputs, [4])
        write_row(server, session.handle, "c", 1, 1e30)
    for session in sessions:
        wire.sessions.DeleteSession(pb.DeleteSessionRequest(name=session.name))
    hall = server.server.hall
    [version] = [one for one in hall.engine.versions if one.model == "tiny"]

    def free_rows() -> torch.Tensor:
        arena = version.arena
        return arena.read(arena._free[: arena._free_count].copy())

    async def call() -> torch.Tensor:
        return await hall.engine.call(free_rows)

    assert not server.run(call()).any()
    for _ in sessions:
        fresh = wire.create()
        np.testing.assert_allclose(
            wire.outputs([fresh.handle], [0], inputs, [4]), truth, rtol=1e-5, atol=1e-6
        )

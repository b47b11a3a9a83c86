"""Slices: the server's threads wait for no whole slice of another, and what it starts gets none."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from carousel.server import slices
from carousel.server.training.process import Share, start
from tests.conftest import RunningServer

pytestmark = pytest.mark.skipif(
    slices.slice_of(threading.get_native_id()) == 0, reason="this system does not tell of slices"
)


def test_a_server_s_threads_take_turns_quickly(server: RunningServer) -> None:
    ready = server.server.hall.engine.call  # runs a function in the engine's thread

    async def engine_s() -> int:
        return await ready(threading.get_native_id)

    async def loop_s() -> int:
        return threading.get_native_id()

    for thread in (server.run(engine_s()), server.run(loop_s())):
        assert slices.slice_of(thread) == slices.SLICE_NANOSECONDS
    assert sys.getswitchinterval() == pytest.approx(slices.SWITCH_SECONDS)


def test_a_job_has_the_slices_of_any_process(tmp_path: Path) -> None:
    def start_quickly() -> tuple[int, int]:
        slices.set_slice(slices.SLICE_NANOSECONDS)
        process = start(["sleep", "60"], tmp_path, Share())
        assert process.child is not None
        try:
            return slices.slice_of(threading.get_native_id()), slices.slice_of(process.pid)
        finally:
            process.child.kill()
            process.child.wait()

    with ThreadPoolExecutor(1) as threads:
        mine, its = threads.submit(start_quickly).result()
    assert mine == slices.SLICE_NANOSECONDS
    assert its != slices.SLICE_NANOSECONDS

"""The front ends of a server: started, started again where one ends, drained and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from carousel.errors import CarouselError, to_status
from carousel.server.access_log import Recorder
from carousel.server.address import address
from carousel.server.frontends import counts, port, records
from carousel.server.frontends.engine_end import EngineEnd
from carousel.server.frontends.link import Link, make_memory
from carousel.server.hall import Hall
from carousel.server.metrics import Metrics
from carousel.server.services.inference_service import InferenceService
from carousel.server.settings_sources import PREFIX
from carousel.server.tracing.trace import NO_TRACER

log = logging.getLogger("carousel.frontends")

START_SECONDS = 60.0
LOOK_SECONDS = 1.0
SILENT_LOOKS = 10  # in a row, until a front end that says nothing is taken for hanging
STOP_SECONDS = 5.0  # for its end, beyond what calls that run are given
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
STABLE_SECONDS = 10.0  # after which an end is not taken for a failed start

# What only the engine's process needs; there may be passwords among it.
_KEPT_BACK = ("session_store", "database_url", "otlp_endpoint", "state_key_file", "quotas")


class FrontEndError(Exception):
    """The front ends can't be started; the message says why."""


class _One:
    """One process, and this end of the link to it."""

    def __init__(self, process: subprocess.Popen[bytes], link: Link) -> None:
        self.process = process
        self.link = link
        self.ready = asyncio.Event()
        self.lost = asyncio.Event()


class FrontEnds:
    """All of a server's. `socket` is where its engine's process listens for them alone."""

    def __init__(
        self,
        hall: Hall,
        inference: InferenceService,
        metrics: Metrics,
        recorder: Recorder | None,
    ) -> None:
        self._hall = hall
        self._settings = hall.settings
        self._inference = inference
        self._metrics = metrics
        self._recorder = recorder
        self._counted = counts.families(metrics, metrics.access, metrics.resets)
        self._folder = Path(tempfile.mkdtemp(prefix="carousel-"))  # for this user alone
        self.socket = str(self._folder / "engine")
        self._port: port.HeldPort | None = None
        self._live: dict[int, _One] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = False
        metrics.frontends.set_function(self._count)

    @property
    def pids(self) -> list[int]:
        return [one.process.pid for _, one in sorted(self._live.items())]

    @property
    def take_calls(self) -> bool:
        return self._count() > 0

    def _count(self) -> int:
        return sum(one.ready.is_set() for one in tuple(self._live.values()))

    async def start(self) -> int:
        """Start all; the port that they listen on. Raises FrontEndError, PortTaken, OSError."""
        self._port = await asyncio.to_thread(port.hold, self._settings.host, self._settings.port)
        count = self._settings.frontends
        try:
            async with asyncio.timeout(START_SECONDS):
                for number in range(count):
                    self._live[number] = await self._launch()
                for one in tuple(self._live.values()):
                    await _either(one.ready, one.lost)
                    if not one.ready.is_set():
                        raise FrontEndError("a front end ended before it listened")
        except (TimeoutError, FrontEndError) as error:
            await self.stop(0)
            raise FrontEndError(str(error) or "the front ends do not come up") from None
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep(number)) for number in range(count)]
        return self._port.number

    def drain(self, why: CarouselError) -> None:
        """End all streams of steps once what was sent on them is answered."""
        record = bytes((records.DRAIN,)) + to_status(why).SerializeToString()
        for one in self._live.values():
            one.link.send(record)

    async def stop(self, grace: float) -> None:
        """End all; calls that run have so many seconds. May be called again, for fewer."""
        self._stopping = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*(self._end(one, grace) for one in self._live.values()))
        self._live.clear()
        if self._port is not None:
            self._port.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _end(self, one: _One, grace: float) -> None:
        one.link.send(records.stop(grace))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace + STOP_SECONDS):
                await _gone(one)
        if not one.lost.is_set():
            one.process.kill()
        await asyncio.to_thread(one.process.wait)

    async def _keep(self, number: int) -> None:
        """Start a front end again whenever it ends, the sooner the longer it has lived."""
        pause = FIRST_PAUSE
        while True:
            begin, one = time.monotonic(), self._live[number]
            await _gone(one)
            one.ready.clear()
            one.process.kill()  # it may hang, or have closed the link without having ended
            status = await asyncio.to_thread(one.process.wait)
            log.error("front end %d has ended with status %d and is started again", number, status)
            self._metrics.frontend_restarts.inc()
            if time.monotonic() - begin > STABLE_SECONDS:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                self._live[number] = await self._launch()
            except OSError as error:  # no memory, no processes: perhaps later
                log.error("front end %d can't be started: %s", number, error)

    async def _launch(self) -> _One:
        assert self._port is not None
        memory = make_memory()
        ours, theirs = socket.socketpair()
        try:
            command = [sys.executable, "-m", "carousel.server.frontends"]
            command += [str(memory), str(theirs.fileno())]
            process = await asyncio.to_thread(
                subprocess.Popen[bytes],
                command,
                pass_fds=(memory, theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the server alone
            )
            one = self._connect(process, memory, ours)
        finally:
            theirs.close()
            os.close(memory)
        one.link.send(records.plain(records.BEGIN, self._told()))
        return one

    def _connect(self, process: subprocess.Popen[bytes], memory: int, near: socket.socket) -> _One:
        end = EngineEnd(
            self._hall,
            self._inference,
            self._counted,
            self._recorder,
            ready=lambda: one.ready.set(),
        )

        def lost() -> None:
            one.ready.clear()
            one.lost.set()
            end.lost()

        link = end.link = Link(memory, near, is_engine=True, receive=end.receive, lost=lost)
        one = _One(process, link)
        return one

    def _told(self) -> dict[str, Any]:
        """What a front end needs to know."""
        assert self._port is not None
        settings = self._settings
        given = settings.model_dump(mode="json", exclude=set(_KEPT_BACK))
        return {
            "settings": given,
            "address": address(settings.host, self._port.number),
            "socket": self.socket,
            "recorded": self._recorder is not None,
            "traced": self._hall.tracer is not NO_TRACER,
        }


def _environment() -> dict[str, str]:
    """The server's own without its settings; nor are there modules in the folder of its start."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    return inherited | {"PYTHONSAFEPATH": "1"}


async def _gone(one: _One) -> None:
    """Wait for its end, or until it hangs: its port would take connections that nobody answers.

    Silence is counted in looks, so that it is not for a pause of the engine's own process, or of
    the machine, that all of them are ended.
    """
    silent, heard = 0, -1
    while silent < (SILENT_LOOKS if one.ready.is_set() else START_SECONDS / LOOK_SECONDS):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await one.lost.wait()
                return
        silent = silent + 1 if one.link.received == heard else 0
        heard = one.link.received
    log.error("a front end has said nothing for %g s", silent * LOOK_SECONDS)


async def _either(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(one.wait()) for one in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()

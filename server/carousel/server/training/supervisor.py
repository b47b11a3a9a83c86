"""The supervisor: claims jobs as there is room, keeps their leases, hands them back at the end."""

from __future__ import annotations

import asyncio
import logging

from carousel.errors import CarouselError
from carousel.server.training.bells import wait
from carousel.server.training.database import Database
from carousel.server.training.records import CANCELLING
from carousel.server.training.run import KILL_SECONDS, Run
from carousel.server.training.workshop import Workshop

HEARTBEAT_SECONDS = 2.0

log = logging.getLogger("carousel.training")


class Supervisor:
    """Runs up to `at_once` jobs side by side; 0: none, also not those of servers that died."""

    def __init__(self, database: Database, shop: Workshop, *, at_once: int) -> None:
        self._database = database
        self._shop = shop
        self._at_once = at_once
        self._runs: dict[int, tuple[Run, asyncio.Task[None]]] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._main())

    def wake(self) -> None:
        """Something changed: look now and not at the next heartbeat."""
        self._wake.set()

    async def close(self, grace: float) -> None:
        """Give the jobs back to the queue, each with a checkpoint if `grace` seconds allow it."""
        if self._closing or self._task is None:
            return
        self._closing = True
        self.wake()
        await self._task
        for run, _ in self._runs.values():
            run.leave(grace)
        # Their leases are kept meanwhile.
        end = asyncio.get_running_loop().time() + grace + 2 * KILL_SECONDS
        while self._runs and asyncio.get_running_loop().time() < end:
            await asyncio.wait([task for _, task in self._runs.values()], timeout=HEARTBEAT_SECONDS)
            await self._look()

    async def _main(self) -> None:
        while not self._closing:
            self._wake.clear()
            bell = self._wake
            await self._look()
            await wait(bell, HEARTBEAT_SECONDS)

    async def _look(self) -> None:
        self._runs = {n: (r, task) for n, (r, task) in self._runs.items() if not task.done()}
        if not await asyncio.to_thread(lambda: self._database.exists):
            return
        try:
            await self._renew()
            if not self._closing:
                await self._claim()
            self._shop.metrics.count(await asyncio.to_thread(self._shop.leases.counts))
        except CarouselError as error:
            log.error("the records of training can't be had: %s", error.message)
        except Exception:  # the next look may go well, and jobs wait for it
            log.exception("the supervisor stumbled")

    async def _renew(self) -> None:
        if not self._runs:
            return
        states = await asyncio.to_thread(self._shop.leases.renew, list(self._runs))
        for number, (run, task) in self._runs.items():
            if number not in states:
                if not task.done():
                    run.lose()
            elif states[number] == CANCELLING:
                run.cancel()

    async def _claim(self) -> None:
        while self._at_once:
            room = len(self._runs) < self._at_once
            job = await asyncio.to_thread(lambda new=room: self._shop.leases.claim(new=new))  # type: ignore[misc]
            if job is None:
                return
            self._shop.bells.ring(job.id)
            run = Run(job, self._shop)
            task = asyncio.get_running_loop().create_task(run.main())
            task.add_done_callback(lambda _: self.wake())
            self._runs[job.number] = (run, task)

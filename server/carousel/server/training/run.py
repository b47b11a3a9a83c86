"""One job while this server owns it: prepare, train, promote; every step can be taken up again.

Nothing of it is only in memory: a server that takes the job over finds its place by the files
that are there (`corpus`, `result`), by whether the process lives, and by the last event.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import BinaryIO, Literal, NoReturn, TypeVar

from sqlalchemy.orm import Session

from carousel.errors import CarouselError, Unavailable
from carousel.server.training import events
from carousel.server.training.job_folder import JobFolder
from carousel.server.training.jobs import change_state
from carousel.server.training.leases import LeaseLost
from carousel.server.training.process import (
    Process,
    bound_memory,
    preparing_command,
    signal_all,
    start,
    training_command,
)
from carousel.server.training.promotion import why_not
from carousel.server.training.records import (
    CANCELLED,
    CANCELLING,
    ENDED,
    FAILED,
    PREPARING,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    JobRecord,
)
from carousel.server.training.workshop import Workshop
from carousel.server.uploads import to_end

LOOK_SECONDS = 0.25
KILL_SECONDS = 5.0  # from SIGTERM to SIGKILL, and for a process to end after its last event
MAX_FRUITLESS = 4  # starts in a row that brought no checkpoint

T = TypeVar("T")
log = logging.getLogger("carousel.training")


class Ended(Exception):
    """The run is over: the job came to its end, or went back to the queue."""


class Run:
    """Takes a claimed job to its end, unless it is told otherwise."""

    def __init__(self, job: JobRecord, shop: Workshop) -> None:
        self.job = job
        self._shop = shop
        self._folder = JobFolder(shop.folder.job(job.number))
        self._metrics = shop.metrics.job(job)
        self._process: Process | None = None
        self._order: Literal["", "cancel", "leave", "lose"] = ""
        self._deadline = 0.0  # for the process to be gone; 0: none

    async def main(self) -> None:
        """Returns when the job is not ours any more; raises nothing."""
        try:
            await self._live()
        except Ended:
            pass
        except LeaseLost:
            log.warning("jobs/%s was taken over by another server", self.job.id)
        except Unavailable as error:  # its process goes on; who can reach the records, adopts it
            log.error("jobs/%s is let go: %s", self.job.id, error.message)
        except Exception as error:
            log.exception("jobs/%s failed", self.job.id)
            fault = error.message if isinstance(error, CarouselError) else f"a fault: {error!r}"
            with contextlib.suppress(Ended, LeaseLost, CarouselError):
                await self._clear_up()
                await self._end(FAILED, fault)
        finally:
            self._metrics.remove()

    def cancel(self) -> None:
        """The record says so already."""
        self._ask("cancel", self._shop.grace)

    def leave(self, grace: float) -> None:
        """The server goes: end the process, so that the next server can go on."""
        self._ask("leave", grace)
        self._deadline = min(self._deadline, time.monotonic() + grace)

    def lose(self) -> None:
        """The lease is gone, and the process is somebody else's."""
        self._order = "lose"

    @property
    def _said(self) -> str:
        """The type of the last event that tells where the process is."""
        return str(self.job.said["type"]) if self.job.said else ""

    def _ask(self, order: Literal["cancel", "leave"], grace: float) -> None:
        if not self._order:
            self._order = order
            self._deadline = time.monotonic() + grace
            self._folder.ask_to_stop()

    async def _live(self) -> None:
        await asyncio.to_thread(self._settle)
        await self._catch_up()
        while not self._folder.corpus.exists():
            await self._prepare()
        while True:
            while not self._folder.result.exists():
                await self._train()
            await self._obey()
            if not self.job.model:
                await self._end(SUCCEEDED)
            async with self._shop.promotion.turn(meanwhile=self._heed):
                await self._heed()
                await self._promote()

    def _settle(self) -> None:
        """Find the process of an earlier server, or end what is left of it."""
        self._folder.make()
        self._folder.forget_other_recipe(self.job)
        self._process = Process.find(self.job.pid, self.job.pid_start)
        if self._process is None:
            signal_all(self._folder.path, signal.SIGKILL)
        elif self._folder.told_to_stop:
            self._deadline = time.monotonic() + self._shop.grace
        if self.job.state == CANCELLING:
            self.cancel()

    async def _catch_up(self) -> None:
        """Hear what the process said while no server listened; it may have ended meanwhile."""
        while await self._take_in():
            pass
        if self._process is None and self.job.state in (RUNNING, CANCELLING):
            await self._fail_if_said()

    async def _prepare(self) -> None:
        if self._process is None:
            with await asyncio.to_thread(self._shop.folder.source, self.job) as data:
                size = os.fstat(data.fileno()).st_size
                await asyncio.to_thread(self._shop.folder.check_room, size)
                command = preparing_command(self.job.format, self._folder.path)
                self._process = await self._start(command, PREPARING, data)
            bound_memory(self._process.pid)
        while self._process.alive and not self._order:  # noqa: ASYNC110 (a process rings no bell)
            await asyncio.sleep(LOOK_SECONDS)
        await self._clear_up()
        if fault := self._folder.take_fault():
            await self._end(FAILED, str(fault["error"]))

    async def _train(self) -> None:
        if self._process is None:
            command = training_command(self._folder.path, self.job.workers)
            self._process = await self._start(command, RUNNING)
        await self._follow(self._process)
        await self._clear_up()
        await self._fail_if_said()

    async def _fail_if_said(self) -> None:
        if self.job.said is not None and self._said == "failed":
            await self._end(FAILED, str(self.job.said["message"]))

    async def _start(self, command: list[str], state: str, data: BinaryIO | None = None) -> Process:
        """Start a process, and keep how to find it again."""
        await self._obey()
        if self.job.state == state and self.job.fruitless >= MAX_FRUITLESS:
            words = await asyncio.to_thread(self._folder.last_words)
            await self._end(FAILED, f"its process died {MAX_FRUITLESS} times in a row: {words}")
        baseline = await asyncio.to_thread(
            self._shop.promotion.baseline, self.job.model, self.job.alias
        )

        def begin(session: Session, job: JobRecord) -> Process | None:
            if job.state == CANCELLING:  # just now: that must not be written over
                return None
            if job.state != state:
                job.fruitless = 0
                change_state(session, job, state)
            elif state == RUNNING or job.fruitless:
                died = {"message": "the job's process died and is started again"}
                events.append(session, job, "warning", died)
            job.fruitless += 1
            job.attempts += state == RUNNING
            self._folder.write_job(job, baseline)
            process = start(command, self._folder.path, self._shop.share, data=data)
            job.pid, job.pid_start, job.said = process.pid, process.start, None
            return process

        self._metrics.starts()
        process = await self._write(begin)
        return await self._start(command, state, data) if process is None else process

    async def _follow(self, process: Process) -> None:
        """Take in what the process says until it is gone, and see to it that it goes in time."""
        while True:
            alive = process.alive  # before reading, so that nothing is missed
            read = await self._take_in()
            if self._order == "lose":
                raise LeaseLost
            if not alive and not read:
                return
            if self._said in events.FINAL:
                self._deadline = self._deadline or time.monotonic() + KILL_SECONDS
            if self._deadline and (late := time.monotonic() - self._deadline) > 0:
                kill = late > KILL_SECONDS or self._order == "leave"
                await self._signal(signal.SIGKILL if kill else signal.SIGTERM)
            if not read:
                await asyncio.sleep(LOOK_SECONDS)

    async def _take_in(self) -> bool:
        """Bring new lines of events.jsonl into the records; whether there were some."""
        found, offset = await asyncio.to_thread(
            events.read_new, self._folder.events, self.job.events_read
        )
        if offset == self.job.events_read:
            return False

        def keep(session: Session, job: JobRecord) -> None:
            for event in found:
                events.take_in(session, job, event, self._folder)
            job.events_read = offset

        await self._write(keep)
        for event in found:
            self._metrics.take_in(event)
        return True

    async def _clear_up(self) -> None:
        """The process is gone, or has to; workers that have lost their head go too."""
        if self._order == "lose":
            raise LeaseLost
        await self._signal(signal.SIGKILL)
        if self._process is not None and self._process.child is not None:
            await asyncio.to_thread(self._process.child.wait)
        self._process = None

    async def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.signal(number)
        await asyncio.to_thread(signal_all, self._folder.path, number)

    async def _obey(self) -> None:
        """Do what it was told; else whatever it was told to its process is over."""
        await self._heed()
        self._folder.forget_to_stop()
        self._deadline = 0.0

    async def _heed(self) -> None:
        """Do what it was told, if anything."""
        if self._order == "lose":
            raise LeaseLost
        if self._order == "cancel":
            await self._end(CANCELLED)
        if self._order == "leave":
            await self._end(QUEUED)

    async def _promote(self) -> None:
        """Returns when its gate has to be asked again, since the alias moved meanwhile."""
        promotion, result = self._shop.promotion, self._folder.result
        model, alias, number = self.job.model, self.job.alias, self.job.version
        if number and await promotion.finish(result, model, number, alias):
            await self._end(SUCCEEDED, promoted=True)
        if self.job.margin is not None and self._folder.baseline != await asyncio.to_thread(
            promotion.baseline, model, alias
        ):
            await self._hold_again()
            return
        finished = (self.job.said or {}) if self._said == "finished" else {}
        # Without it, the process was killed between its result and its last word.
        if not finished.get("passed", self.job.margin is None):
            await self._end(SUCCEEDED, why_not(self.job, finished))
        await promotion.add(result, model, alias, announce=self._announce)
        await self._end(SUCCEEDED, promoted=True)

    async def _hold_again(self) -> None:
        """Let its process, which has nothing more to learn, hold the result against what serves."""

        def say(session: Session, job: JobRecord) -> None:
            moved = f"{job.alias} moved while it learned: it is held against the new version"
            events.append(session, job, "warning", {"message": moved})
            if job.state != CANCELLING:
                change_state(session, job, PREPARING)

        await self._write(say)
        await asyncio.to_thread(self._folder.forget_result)

    def _announce(self, number: int) -> None:
        with self._shop.leases.write(self.job.number) as (_, job):
            job.version = number

    async def _end(self, state: str, message: str = "", *, promoted: bool = False) -> NoReturn:
        def end(session: Session, job: JobRecord) -> None:
            job.promoted = job.promoted or promoted
            job.owner, job.lease_until = "", 0.0
            # It may have been cancelled since it was told to leave.
            cancelled = state == QUEUED and job.state == CANCELLING
            change_state(session, job, CANCELLED if cancelled else state, message)

        await self._write(end)
        if self.job.state in ENDED:
            self._shop.metrics.finished.labels(self.job.state).inc()
        extra = {"reason": message} if message else {}
        log.info("jobs/%s is %s", self.job.id, self.job.state, extra=extra)
        raise Ended

    async def _write(self, change: Callable[[Session, JobRecord], T]) -> T:
        """Change the job's record in one transaction, to its end. Raises LeaseLost."""

        def work() -> tuple[JobRecord, T]:
            with self._shop.leases.write(self.job.number) as (session, job):
                result = change(session, job)
            return job, result

        self.job, result = await to_end(work)
        if self.job.state == CANCELLING:
            self.cancel()
        self._shop.bells.ring(self.job.id)
        return result

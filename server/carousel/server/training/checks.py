"""Data looked at before a job is made of it, by the very preparation that the job begins with."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import signal
import subprocess
from pathlib import Path
from typing import BinaryIO

from carousel.errors import StoreUnwritable
from carousel.server.beneath import path_of
from carousel.server.training import prepare
from carousel.server.training.child import Object, is_harmless, refusal
from carousel.server.training.data_folder import DataFolder
from carousel.server.training.job_folder import JobFolder
from carousel.server.training.process import (
    Share,
    bound_memory,
    preparing_command,
    signal_all,
    start,
)
from carousel.server.training.records import JobRecord
from carousel.server.uploads import to_end

# What can be looked at while a caller waits; docs/decisions.md has the measurement.
MOST_BYTES = 32 * 1024**2
MOST_SECONDS = 8.0
MOST_KNOWN = 1024

log = logging.getLogger(__name__)


class Checks:
    """Looks at one source at a time, and remembers what it found by file and recipe."""

    def __init__(self, folder: DataFolder, *, share: Share, seconds: float = MOST_SECONDS) -> None:
        self._folder = folder
        self._share = share
        self.seconds = seconds  # that a look may take, and that one waits for its turn
        self._known: dict[bytes, Object | None] = {}
        self._turn = asyncio.Semaphore(1)

    async def look(self, job: JobRecord) -> str:
        """Why the data is left to the job's preparation; empty: all of it can be learned from.

        Raises DatasetInvalid, InvalidField (a uri that may not be read).
        """
        if job.home != self._folder.home:
            return "the data is on another server, and is checked there before it learns"
        try:
            async with asyncio.timeout(self.seconds):
                await self._turn.acquire()
        except TimeoutError:
            return "the data is checked before it learns: other data was being looked at"
        try:
            return await to_end(lambda: self._look(job))
        finally:
            self._turn.release()

    def _look(self, job: JobRecord) -> str:
        try:
            with self._folder.source(job) as data:
                fault, left = self._find(data, job)
        except (OSError, StoreUnwritable) as error:
            return self._failed(job, str(error))
        if fault is not None:
            raise refusal(fault, field=_field(fault, job))
        return left

    def _find(self, data: BinaryIO, job: JobRecord) -> tuple[Object | None, str]:
        """What is wrong with the data or the task; and why nothing can be said of that."""
        if (size := os.fstat(data.fileno()).st_size) > MOST_BYTES:
            return None, (
                f"the data is checked before it learns: it has {size:,} bytes, more than the "
                f"{MOST_BYTES:,} that are looked at beforehand"
            )
        key = _key(data, job)
        if key in self._known:
            return self._known[key], ""
        self._folder.check_room(size)
        with self._folder.scratch() as folder:
            fault, left = self._prepare(data, job, folder)
        if not left:
            while len(self._known) >= MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[key] = fault
        return fault, left

    def _prepare(self, data: BinaryIO, job: JobRecord, folder: Path) -> tuple[Object | None, str]:
        (folder / "job.json").write_text(json.dumps({"recipe": job.recipe}))
        # To learn subwords is work for every core, however small the text.
        subwords = job.recipe["task"].get("tokenization") == "subwords"
        made: bool | None
        if is_harmless(data, job.format) and not subwords:
            made = prepare.main(path_of(data), job.format, folder)
        elif (made := self._in_time(data, job.format, folder)) is None:
            return None, (
                "the data is checked before it learns: to look at it beforehand took more than "
                f"{self.seconds:g} seconds"
            )
        fault = JobFolder(folder).take_fault()
        if made or (fault and fault["blame"]):
            return fault, ""
        return None, self._failed(job, fault["error"] if fault else JobFolder(folder).last_words())

    @staticmethod
    def _failed(job: JobRecord, why: str) -> str:
        log.warning("the data of jobs/%s could not be looked at: %s", job.id, why)
        return f"the data is checked before it learns: to look at it beforehand failed, {why}"

    def _in_time(self, data: BinaryIO, kind: str, folder: Path) -> bool | None:
        """Whether a process made the corpus; None: not in time."""
        process = start(preparing_command(kind, folder), folder, self._share, data=data)
        assert process.child is not None
        bound_memory(process.pid)
        try:
            return process.child.wait(self.seconds) == 0
        except subprocess.TimeoutExpired:
            return None
        finally:
            signal_all(folder, signal.SIGKILL)
            process.child.kill()
            process.child.wait()


def _key(data: BinaryIO, job: JobRecord) -> bytes:
    """Of all that the preparation depends on."""
    file, recipe = os.fstat(data.fileno()), job.recipe
    of_recipe = [recipe[name] for name in ("task", "validation_share", "test_share", "seed")]
    of_file = [file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns, job.format]
    return hashlib.sha256(json.dumps([of_file, of_recipe], sort_keys=True).encode()).digest()


def _field(fault: Object, job: JobRecord) -> str:
    if fault["blame"] == "task":
        return f"job.recipe.{job.recipe['task']['type']}"
    return "job.dataset" if job.dataset else "job.uri"

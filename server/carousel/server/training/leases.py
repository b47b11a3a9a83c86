"""Leases: which server runs a job. Whoever's lease has run out is taken for dead.

Every write of an owner checks, in its transaction, that it still is the owner; a server that was
asleep for a while can so never write over the one that took over.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from carousel.server.training.data_folder import DataFolder
from carousel.server.training.database import Database
from carousel.server.training.jobs import change_state
from carousel.server.training.process import machine
from carousel.server.training.records import ACTIVE, PREPARING, QUEUED, STATES, JobRecord

LEASE_SECONDS = 10.0
# A job of another machine in the same folder: its process can't be seen from here, and gets
# time to end, as it does in a container that went down.
ELSEWHERE_SECONDS = 60.0


class LeaseLost(Exception):
    """Another server took the job over, or it was deleted."""


class Leases:
    """The leases of one server, `owner`. Methods block."""

    def __init__(self, database: Database, folder: DataFolder, owner: str) -> None:
        self._database = database
        self._folder = folder
        self._owner = owner
        self._machine = machine()

    def claim(self, *, new: bool) -> JobRecord | None:
        """A job whose owner died, or, if `new`, the next of the queue; it is ours then."""
        now = time.time()
        left_behind = and_(
            JobRecord.state.in_(ACTIVE),
            or_(
                and_(JobRecord.lease_until < now, JobRecord.machine == self._machine),
                JobRecord.lease_until < now - ELSEWHERE_SECONDS,
            ),
        )
        wanted = or_(left_behind, JobRecord.state == QUEUED) if new else left_behind
        query = (
            select(JobRecord)
            .where(JobRecord.home == self._folder.home, wanted)
            .order_by(JobRecord.state == QUEUED, JobRecord.priority.desc(), JobRecord.number)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with self._database.begin() as session:
            job = session.scalar(query)
            if job is not None:
                job.owner, job.lease_until = self._owner, now + LEASE_SECONDS
                if job.machine != self._machine:
                    job.machine, job.pid = self._machine, 0
                if job.state == QUEUED:
                    change_state(session, job, PREPARING)
        return job

    def renew(self, jobs: Collection[int]) -> dict[int, str]:
        """The states of those of the jobs that are still ours, for another while."""
        query = (
            select(JobRecord)
            .where(JobRecord.number.in_(jobs), JobRecord.owner == self._owner)
            .with_for_update()
        )
        with self._database.begin() as session:
            kept = list(session.scalars(query))
            for job in kept:
                job.lease_until = time.time() + LEASE_SECONDS
            return {job.number: job.state for job in kept}

    @contextlib.contextmanager
    def write(self, number: int) -> Iterator[tuple[Session, JobRecord]]:
        """A transaction that holds the job's row. Raises LeaseLost."""
        with self._database.begin() as session:
            job = session.get(JobRecord, number, with_for_update=True)
            if job is None or job.owner != self._owner:
                raise LeaseLost(str(number))
            yield session, job

    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        query = select(JobRecord.state, func.count()).group_by(JobRecord.state)
        with self._database.begin() as session:
            found = {state: count for state, count in session.execute(query)}
        return {state: found.get(state, 0) for state in STATES}

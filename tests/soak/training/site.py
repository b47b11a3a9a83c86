"""A site: one or two servers on one data folder, where they are restarted, and its records."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from carousel.client import Client
from carousel.server.training.data_folder import DataFolder
from carousel.server.training.database import Database
from carousel.server.training.job_folder import JobFolder
from carousel.server.training.jobs import Jobs
from carousel.server.training.records import JobRecord
from tests.processes import ServerProcess


class Site:
    """Servers keep their ports when they come back, so that clients find them again."""

    def __init__(self, folder: Path, servers: int, database_url: str | None) -> None:
        folder.mkdir()
        self.store = folder / "models"
        data = DataFolder(folder / "data")
        self._database = Database(data.root, database_url)
        self._data, self._jobs = data, Jobs(self._database, data, queue=0, runs_here=False)
        shared = {"database_url": database_url} if database_url else {}
        self.servers = [ServerProcess(folder, store=self.store, **shared) for _ in range(servers)]
        for server in self.servers:
            server.start()
        self.clients = [Client(server.target, timeout=60) for server in self.servers]

    def owner(self, job: str) -> int | None:
        """Which server runs the job at this moment."""
        record = self.record(job)
        for place, client in enumerate(self.clients):
            if client.server_info().instance_id == record.owner:
                return place
        return None

    def record(self, job: str) -> JobRecord:
        return self._jobs.get(job)

    def folder(self, job: str) -> JobFolder:
        return JobFolder(self._data.job(self.record(job).number))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for client in self.clients:
            client.close()
        self._database.close()
        for server in self.servers:
            if server.process is not None:
                server.terminate()

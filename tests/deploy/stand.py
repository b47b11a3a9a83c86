"""A server, an exporter and Prometheus as they stand in docker-compose.yml, without containers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from carousel.server.training.process import signal_all
from tests.deploy.load import Load
from tests.deploy.models import make_models
from tests.deploy.prometheus import Prometheus
from tests.processes import PATIENCE, ServerProcess, until

CAPACITY = 200


@dataclass(frozen=True, slots=True)
class Stand:
    """What stands there; the server keeps its files in `folder`."""

    folder: Path
    server: ServerProcess
    prometheus: Prometheus
    load: Load

    @property
    def jobs(self) -> list[Path]:
        """The folders of training jobs."""
        return jobs(self.folder)

    def wait(self, expr: str, seconds: float = PATIENCE) -> None:
        """Until Prometheus has a number for it."""
        until(lambda: bool(self.prometheus.now(expr)), seconds)


@contextmanager
def stand(folder: Path, **flags: object) -> Iterator[Stand]:
    """All of it under load. Turns are made to have long slices, and the arena is small."""
    make_models(folder / "models")
    given = {"http_port": 0, "max_sessions": CAPACITY, "device_rows": 16, "batch_audit_every": 10}
    given["training_jobs_at_once"] = 2
    with ExitStack() as stack:
        stack.callback(_end_jobs, folder)  # they outlive their server
        enter = stack.enter_context
        server = enter(
            ServerProcess(folder, store=folder / "models", chunk_slice=8192, **{**given, **flags})
        )
        exporter = enter(_exporter(server.target))
        targets = {"carousel": urlsplit(server.http).netloc, "carousel-exporter": exporter}
        prometheus = enter(Prometheus(folder, targets))
        yield Stand(folder, server, prometheus, enter(Load(server.target)))


def jobs(folder: Path) -> list[Path]:
    return list((folder / "data" / "jobs").glob("*"))


def _end_jobs(folder: Path) -> None:
    for job in jobs(folder):
        signal_all(job, signal.SIGKILL)


@contextmanager
def _exporter(target: str) -> Iterator[str]:
    """`carousel exporter`: where it listens."""
    command = [sys.executable, "-m", "carousel.cli", "exporter", "--json"]
    command += ["--target", target, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        yield urlsplit(json.loads(process.stdout.readline())["http"]).netloc
    finally:
        process.terminate()
        process.wait(PATIENCE)
        if process.stdout is not None:
            process.stdout.close()

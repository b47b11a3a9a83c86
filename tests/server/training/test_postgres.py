"""Servers that share PostgreSQL and no disk: any of them answers, the one at home runs the job."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from carousel.server.training.database import Database
from carousel.v1 import training_pb2
from tests.server.contract import error_of
from tests.server.training.conftest import Start
from tests.server.training.wire import FOX, states

BINARIES = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL of our own on a free port; it refuses to run as root."""
    if not (BINARIES / "initdb").exists():
        pytest.skip(f"there is no PostgreSQL in {BINARIES}")
    root = Path(tmp_path_factory.mktemp("postgres", numbered=True))
    user = "postgres" if os.getuid() == 0 else None
    folder = root / "data"
    if user:
        folder = Path("/tmp") / f"carousel-postgres-{os.getpid()}"  # pytest's own is root's alone
        folder.mkdir(mode=0o700)
        shutil.chown(folder, user)

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, user=user, cwd="/")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        run(str(BINARIES / "initdb"), "-D", str(folder), "-A", "trust", "-U", "me", "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        control = [str(BINARIES / "pg_ctl"), "-D", str(folder), "-w", "-l", str(folder / "log")]
        run(*control, "-o", options, "start")
        try:
            yield f"postgresql://me@127.0.0.1:{port}/postgres"
        finally:
            run(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_servers_that_start_together_migrate_once(database_url: str, tmp_path: Path) -> None:
    databases = [Database(tmp_path, database_url) for _ in range(4)]

    def use(database: Database) -> None:
        with database.begin():
            pass
        database.close()

    with ThreadPoolExecutor() as pool:
        list(pool.map(use, databases))


def test_any_server_answers_for_a_job_that_one_of_them_runs(
    database_url: str, start: Start, tmp_path: Path
) -> None:
    _, here = start(data=tmp_path / "here", database_url=database_url)
    _, there = start(data=tmp_path / "there", database_url=database_url)
    here.upload(FOX, name="fox.txt", id="fox")
    assert there.dataset("fox").state == here.dataset("fox").state
    there.create("job", dataset="fox")  # where the data is not
    events = list(there.watch("job"))
    assert states(events) == ["queued", "preparing", "running", "succeeded"]
    assert events == list(here.watch("job"))
    assert there.get("job") == here.get("job")
    assert there.get("job").state == training_pb2.JOB_STATE_SUCCEEDED


def test_one_of_many_callers_gets_an_id(database_url: str, start: Start, tmp_path: Path) -> None:
    """Others are told that it exists, or to try again, and find that then."""
    _, training = start(data=tmp_path / "race", database_url=database_url, training_jobs_at_once=0)
    training.upload(FOX, name="fox.txt", id="race")

    def create(_: int) -> str:
        while True:
            try:
                return training.create("raced", dataset="race").name
            except grpc.RpcError as error:
                if (reason := error_of(error).reason) != "UNAVAILABLE":
                    return reason

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(create, range(8)))
    assert sorted(made) == ["JOB_EXISTS"] * 7 + ["jobs/raced"]

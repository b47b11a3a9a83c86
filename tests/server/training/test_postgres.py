"""Servers that share PostgreSQL and no disk: any of them answers, the one at home runs the job."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from carousel.server.training.database import Database
from carousel.v1 import training_pb2
from carousel.v1 import training_service_pb2 as pb
from tests.processes import ServerProcess
from tests.server.contract import error_of
from tests.server.tenancy.estate import Caller, job
from tests.server.training.conftest import Start
from tests.server.training.postgres import binaries, postgres
from tests.server.training.wire import FOX, Training, pieces, recipe, states, time_passes


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    if binaries() is None:
        pytest.skip("there is no PostgreSQL")
    with postgres() as url:
        yield url


def test_servers_that_start_together_migrate_once(database_url: str, tmp_path: Path) -> None:
    databases = [Database(tmp_path, database_url) for _ in range(4)]

    def use(database: Database) -> None:
        with database.begin():
            pass
        database.close()

    with ThreadPoolExecutor() as pool:
        list(pool.map(use, databases))


def test_servers_count_what_a_tenant_has_one_after_the_other(
    database_url: str, tmp_path: Path
) -> None:
    one, two = (Database(tmp_path, database_url) for _ in range(2))
    with one.begin() as counting:
        one.count_alone(counting, "acme")
        with two.begin() as session:
            session.execute(text("SET LOCAL lock_timeout = '20ms'"))
            two.count_alone(session, "bank")
            with pytest.raises(OperationalError, match="lock timeout"):
                two.count_alone(session, "acme")
            session.rollback()
    with two.begin() as session:
        two.count_alone(session, "acme")
    one.close()
    two.close()


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


def test_of_two_servers_on_one_disk_one_goes_on_when_the_other_is_killed(
    database_url: str, start: Start, tmp_path: Path
) -> None:
    data, store = tmp_path / "both", tmp_path / "models"
    with ServerProcess(tmp_path, store=store, data=data, database_url=database_url) as doomed:
        with grpc.insecure_channel(doomed.target) as channel:
            training = Training(channel)
            training.upload(FOX, name="fox.txt", id="two")
            training.create("two", dataset="two", recipe=recipe(max_steps=1000))
            seen = training.until("two", "progress")
        _, other = start(data=data, database_url=database_url)
        doomed.kill()
    time_passes(Database(data, database_url))
    events = list(other.watch("two", after=seen.sequence))
    assert [e.sequence for e in events][:1] == [seen.sequence + 1]
    assert states(events) == ["succeeded"]
    job = other.get("two")
    assert job.attempts == 1  # the process that the dead server started is listened to again
    assert job.progress.step == 1000


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


def test_what_tenants_have_in_one_database_stays_theirs_on_every_server(
    database_url: str, start: Start, tmp_path: Path
) -> None:
    """Datasets, jobs and request ids of one name, made on one server and asked for on another."""
    waiting = {"database_url": database_url, "training_jobs_at_once": 0}
    servers = [start(data=tmp_path / name, **waiting)[0] for name in ("left", "right")]
    with ExitStack() as stack:
        here, there = (stack.enter_context(grpc.insecure_channel(s.target)) for s in servers)
        tenants = ("acme", "rival", "")
        for copies, tenant in enumerate(tenants, start=1):
            data = FOX.encode() * copies
            own = Caller(here, tenant)
            own.call("UploadDataset", *pieces(data, name="fox.txt", id="shared-id"))
            own.call("CreateJob", job("shared-id", dataset="shared-id"))
            again = job("", dataset="shared-id")
            again.request_id = "again" if tenant else "acme/again"
            [made] = own.call("CreateJob", again)
            assert Caller(there, tenant).call("CreateJob", again) == [made]
        for copies, tenant in enumerate(tenants, start=1):
            far = Caller(there, tenant)
            [dataset] = far.call("GetDataset", pb.GetDatasetRequest(name="datasets/shared-id"))
            assert (dataset.tenant, dataset.size_bytes) == (tenant, len(FOX) * copies)
            [one] = far.call("GetJob", pb.GetJobRequest(name="jobs/shared-id"))
            assert one.tenant == tenant
            [page] = far.call("ListJobs", pb.ListJobsRequest())
            owners = [one.tenant for one in page.jobs if one.name == "jobs/shared-id"]
            assert sorted(owners) == (sorted(tenants) if not tenant else [tenant])
            assert tenant == "" or {one.tenant for one in page.jobs} == {tenant}
        Caller(there, "rival").call("CancelJob", pb.CancelJobRequest(name="jobs/shared-id"))
        states = [
            Caller(here, tenant).call("GetJob", pb.GetJobRequest(name="jobs/shared-id"))[0].state
            for tenant in tenants
        ]
        queued = training_pb2.JOB_STATE_QUEUED
        assert states == [queued, training_pb2.JOB_STATE_CANCELLED, queued]
        with pytest.raises(grpc.RpcError) as unknown:
            Caller(there, "stranger").call("GetJob", pb.GetJobRequest(name="jobs/shared-id"))
        assert error_of(unknown.value).reason == "JOB_NOT_FOUND"

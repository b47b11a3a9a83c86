"""Quotas: what is over one is refused as a whole, says which, and leaves others alone."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from carousel.client import AsyncClient, Client
from carousel.errors import QuotaExceeded
from carousel.server.quotas import Limits, LimitsError, Quotas, read
from carousel.server.quotas.bucket import Bucket
from carousel.v1 import admin_service_pb2 as admin
from carousel.v1 import inference_service_pb2 as inference
from carousel.v1 import model_service_pb2 as models
from carousel.v1 import session_service_pb2 as sessions
from carousel.v1 import training_service_pb2 as training
from tests.conftest import RunningServer, running, tiny_models
from tests.processes import PATIENCE, until
from tests.server.engines import held_up, version_of
from tests.server.tenancy.estate import Caller, X, job, step, upload
from tests.server.training.wire import FOX, pieces

ROW = 2 * 2 * 8 * 4  # bytes of a state of `tiny`

FILE = f"""
[default]
sessions = 2

[tenants.small]
sessions = 3
state_bytes = {4 * ROW}
jobs = 1
dataset_bytes = {len(FOX)}
model_bytes = "16KiB"

[tenants.slow]
steps_per_second = 10

[tenants.narrow]
streams = 1
queued_steps = 2
sessions = 100
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quotas") / "quotas.toml"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def limited(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    tiny_models(store)
    with running(store=store, shipped=False, training_jobs_at_once=0, quotas=file) as server:
        yield server


@pytest.fixture
def wire(limited: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(limited.target) as channel:
        yield channel


def create(caller: Caller, **fields: Any) -> Any:
    request = sessions.CreateSessionRequest(model="models/tiny", **fields)
    return caller.call("CreateSession", request)[0]


def refused(caller: Caller, name: str, *requests: Any) -> dict[str, str]:
    """What the details of the refusal say."""
    with pytest.raises(grpc.RpcError) as failure:
        caller.call(name, *requests)
    error: Any = failure.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
    info, quota, retry = details.ErrorInfo(), details.QuotaFailure(), details.RetryInfo()
    for packed in status_pb2.Status.FromString(raw).details:
        for message in (info, quota, retry):
            packed.Unpack(message)
    assert info.reason == "QUOTA_EXCEEDED"
    [violation] = quota.violations
    assert violation.subject == f"tenants/{caller.tenant}"
    assert info.metadata["quota"] in violation.description
    return {**info.metadata, "retry": str(retry.HasField("retry_delay"))}


def usage(caller: Caller) -> dict[str, int]:
    [answer] = caller.call("GetQuotas", admin.GetQuotasRequest())
    [one] = answer.tenants
    return {quota.name: quota.in_use for quota in one.quotas}


@pytest.fixture
def small(wire: grpc.Channel) -> Iterator[Caller]:
    caller = Caller(wire, "small")
    yield caller
    for one in caller.call("ListSessions", sessions.ListSessionsRequest())[0].sessions:
        caller.call("DeleteSession", sessions.DeleteSessionRequest(name=one.name))
    assert usage(caller)["sessions"] == usage(caller)["state_bytes"] == 0


def test_sessions_are_as_many_as_the_quota_and_forks_are_all_or_none(small: Caller) -> None:
    first = create(small)
    create(small)
    said = refused(small, "ForkSession", sessions.ForkSessionRequest(name=first.name, count=2))
    assert said == {"quota": "sessions", "limit": "3", "in_use": "2", "retry": "True"}
    assert usage(small)["sessions"] == 2
    small.call("ForkSession", sessions.ForkSessionRequest(name=first.name, count=1))
    request = sessions.CreateSessionRequest(model="models/tiny")
    assert refused(small, "CreateSession", request)["in_use"] == "3"
    small.call("DeleteSession", sessions.DeleteSessionRequest(name=first.name))
    create(small)


def test_state_bytes_count_present_kept_and_bookmarked_states(small: Caller) -> None:
    made = create(small, rewind_depth=2)
    assert usage(small)["state_bytes"] == 3 * ROW

    def mark(name: str, **more: bool) -> Any:
        return sessions.BookmarkSessionRequest(name=made.name, bookmark=name, **more)

    small.call("BookmarkSession", mark("a"))
    small.call("BookmarkSession", mark("a"))  # in its own place
    assert refused(small, "BookmarkSession", mark("b")) == {
        "quota": "state_bytes", "limit": str(4 * ROW), "in_use": str(4 * ROW), "retry": "True"
    }  # fmt: skip
    request = sessions.CreateSessionRequest(model="models/tiny")
    assert refused(small, "CreateSession", request)["quota"] == "state_bytes"
    small.call("BookmarkSession", mark("a", remove=True))
    assert usage(small)["state_bytes"] == 3 * ROW


def test_the_default_is_of_every_tenant_and_not_of_the_operator(wire: grpc.Channel) -> None:
    request = sessions.CreateSessionRequest(model="models/tiny")
    for tenant in ("one", "two"):
        caller = Caller(wire, tenant)
        create(caller)
        create(caller)
        assert refused(caller, "CreateSession", request)["limit"] == "2"
    for _ in range(5):
        create(Caller(wire, ""))


def test_steps_are_taken_by_the_message_and_a_refused_one_moves_nothing(wire: grpc.Channel) -> None:
    slow = Caller(wire, "slow")
    made = create(slow)
    steps = np.ones((300, 3), np.float32)
    with_credit = step(made.handle)
    with_credit.lengths.append(len(steps))
    with_credit.inputs.shape[0], with_credit.inputs.data = len(steps), steps.tobytes()
    assert not slow.call("Step", with_credit)[0].errors  # more than a second's worth, on credit
    said = refused(slow, "Step", step(made.handle, 300))
    assert (said["quota"], said["limit"], said["retry"]) == ("steps_per_second", "10", "True")
    [answer] = slow.call("StreamSteps", inference.StreamStepsRequest(step=step(made.handle, 300)))
    [error] = answer.step.errors
    assert (error.reason, error.metadata["quota"]) == ("QUOTA_EXCEEDED", "steps_per_second")
    states = inference.StepStatesRequest(model="models/tiny", states=[b""], inputs=X)
    assert refused(slow, "StepStates", states)["quota"] == "steps_per_second"
    predict = inference.PredictRequest(model="models/tiny", lengths=[1], inputs=X)
    assert refused(slow, "Predict", predict)["quota"] == "steps_per_second"
    [session] = slow.call("GetSession", sessions.GetSessionRequest(name=made.name))
    assert session.step_index == 300
    other = Caller(wire, "quick")
    assert not other.call("Step", step(create(other).handle))[0].errors


def test_streams_and_queued_steps_are_bounded(limited: RunningServer, wire: grpc.Channel) -> None:
    narrow = Caller(wire, "narrow")
    handles = [create(narrow).handle for _ in range(4)]
    metadata = (("x-carousel-tenant", "narrow"),)
    with Client(limited.target, tenant="narrow") as client:
        stream = client.session("letters").generate([1], max_tokens=100)
        next(iter(stream))
        request = inference.StreamStepsRequest(step=step(handles[0]))
        assert refused(narrow, "StreamSteps", request)["quota"] == "streams"
        for _ in stream:
            pass
    assert not narrow.call("StreamSteps", request)[0].step.errors
    door = version_of(limited, "tiny").door
    send = wire.unary_unary(
        "/carousel.v1.InferenceService/Step",
        request_serializer=inference.StepRequest.SerializeToString,
        response_deserializer=inference.StepResponse.FromString,
    )
    with held_up(limited):
        waiting = [send.future(step(one), metadata=metadata) for one in handles[1:3]]
        until(lambda: door.inside_of("narrow") == 2)
        assert refused(narrow, "Step", step(handles[3]))["quota"] == "queued_steps"
    for call in waiting:
        assert not call.result(PATIENCE).errors
    assert not narrow.call("Step", step(handles[3]))[0].errors


def test_what_is_stored_is_bounded_and_refused_before_it_comes(small: Caller) -> None:
    small.call("UploadDataset", *pieces(FOX.encode(), name="fox.txt", id="fox"))
    more = list(pieces(b"x", name="x.txt", id="more"))
    assert refused(small, "UploadDataset", *more) == {
        "quota": "dataset_bytes", "limit": str(len(FOX)), "in_use": str(len(FOX)), "retry": "False"
    }  # fmt: skip
    assert len(small.call("ListDatasets", training.ListDatasetsRequest())[0].datasets) == 1
    small.call("CreateJob", job("one", dataset="fox"))
    assert refused(small, "CreateJob", job("two", dataset="fox"))["quota"] == "jobs"
    small.call("CancelJob", training.CancelJobRequest(name="jobs/one"))
    small.call("CreateJob", job("two", dataset="fox"))
    assert refused(small, "ResumeJob", training.ResumeJobRequest(name="jobs/one"))
    assert usage(small)["jobs"] == 1
    small.call("UploadModelVersion", *upload(small, "copy"))
    used = usage(small)["model_bytes"]
    for _ in range(16 * 1024 // used - 1):
        small.call("UploadModelVersion", *upload(small, "copy"))
    assert refused(small, "UploadModelVersion", *upload(small, "copy"))["quota"] == "model_bytes"
    versions = models.ListModelVersionsRequest(parent="models/copy")
    assert len(small.call("ListModelVersions", versions)[0].versions) == 16 * 1024 // used


def test_refusals_and_usage_show_in_the_metrics_by_named_tenants_alone(
    limited: RunningServer, wire: grpc.Channel, small: Caller
) -> None:
    registry = limited.server.metrics.registry

    def refusals(tenant: str) -> float:
        labels = {"tenant": tenant, "quota": "sessions"}
        return registry.get_sample_value("carousel_quota_refusals_total", labels) or 0.0

    before = refusals("small"), refusals("other")
    for _ in range(3):
        create(small)
    request = sessions.CreateSessionRequest(model="models/tiny")
    refused(small, "CreateSession", request)
    for number in range(3):
        stranger = Caller(wire, f"stranger-{number}")
        create(stranger)
        create(stranger)
        refused(stranger, "CreateSession", request)
    assert (refusals("small"), refusals("other")) == (before[0] + 1, before[1] + 3)
    labels = {"tenant": "small", "quota": "sessions"}
    until(lambda: registry.get_sample_value("carousel_quota_usage", labels) == 3)
    assert registry.get_sample_value("carousel_quota_limit", labels) == 3
    seen = {
        sample.labels["tenant"]
        for family in registry.collect()
        if family.name.startswith("carousel_quota")
        for sample in family.samples
    }
    assert seen <= {"small", "slow", "narrow", "other"}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_tenant_sees_its_own_quotas_and_the_operator_all(
    limited: RunningServer, kind: type
) -> None:
    def ask(tenant: str) -> list[str]:
        if kind is Client:
            with Client(limited.target, tenant=tenant) as client:
                return [one.tenant for one in client.quotas()]

        async def main() -> list[str]:
            async with AsyncClient(limited.target, tenant=tenant) as client:
                return [one.tenant for one in await client.quotas()]

        return asyncio.run(main())

    assert ask("slow") == ["slow"]
    assert ask("nobody-yet") == ["nobody-yet"]
    assert {"small", "slow", "narrow"} <= set(ask(""))


def test_a_changed_file_counts_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "quotas.toml"
    file.write_text("[default]\nsessions = 1\n")
    quotas = Quotas(file)
    with pytest.raises(QuotaExceeded):
        quotas.check("a", "sessions", 1)
    file.write_text("[default]\nsessions = 22\n")
    quotas.refresh()
    assert quotas.of("a").sessions == 22
    file.write_text("[default]\nsessions = many\n")
    quotas.refresh()
    assert quotas.of("a").sessions == 22
    file.unlink()
    quotas.refresh()
    assert quotas.of("a").sessions == 22


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[default]\nrows = 1", "may have sessions"),
        ("[default]\nsessions = -1", "at least 0"),
        ("[default]\nsessions = true", "whole number"),
        ("[default]\nsessions = '5'", "whole number"),
        ("[default]\nmodel_bytes = 'much'", "a size"),
        ("[tenants.'A b']\nsessions = 1", "a tenant is"),
        ("[tenant.a]\nsessions = 1", "may have \\[default\\]"),
        ("default = 3", "must be a table"),
        ("[default", "no TOML"),
    ],
)
def test_a_file_that_is_amiss_is_refused_with_what_is_allowed(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "quotas.toml"
    file.write_text(text)
    with pytest.raises(LimitsError, match=said):
        read(file)


def test_a_tenant_s_own_table_stands_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "quotas.toml"
    file.write_text("[default]\nsessions = 5\njobs = 2\n[tenants.a]\njobs = 9\n")
    found = read(file)
    assert found.of("a") == Limits(sessions=5, jobs=9)
    assert found.of("b") == Limits(sessions=5, jobs=2)
    assert found.of("") == Limits()


@given(
    limit=st.integers(1, 1000),
    messages=st.lists(st.tuples(st.floats(0, 2), st.integers(1, 500)), max_size=60),
)
def test_a_bucket_lets_through_what_its_limit_says_and_one_message_on_credit(
    limit: int, messages: list[tuple[float, int]]
) -> None:
    """Oracle: in no span of time more than its rate, a second's worth and one message."""
    bucket, now, taken = Bucket(0.0), 0.0, []
    for pause, steps in messages:
        now += pause
        wait = bucket.take(steps, limit, now)
        if wait:
            assert math.isfinite(wait)
            assert bucket.take(steps, limit, now + wait + 1e-6) == 0.0
            now += wait + 1e-6
        taken.append((now, steps))
    for first in range(len(taken)):
        total = 0
        for last in range(first, len(taken)):
            total += taken[last][1]
            span = taken[last][0] - taken[first][0]
            assert total - taken[last][1] <= limit * (span + 1) + 1

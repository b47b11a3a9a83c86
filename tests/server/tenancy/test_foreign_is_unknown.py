"""Another tenant's thing looks exactly like an unknown one, for every RPC that names one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

from carousel import tensors
from carousel.v1 import admin_service_pb2 as admin
from carousel.v1 import inference_service_pb2 as inference
from carousel.v1 import (
    model_pb2,
    session_pb2,
    tensor_pb2,
)
from carousel.v1 import model_service_pb2 as models
from carousel.v1 import session_service_pb2 as sessions
from carousel.v1 import training_service_pb2 as training
from tests.server.tenancy.estate import METHODS, Caller, Estate, X, job, step, upload
from tests.server.training.wire import FOX, pieces

# RPCs whose requests name nothing that somebody can have.
NAMELESS = {
    "GetServerInfo", "GetStatistics", "GetQuotas", "DrainServer", "ListModels", "ListDatasets",
}  # fmt: skip

# Fields of requests that name things; what has one of them is no nameless RPC.
NAMES = {"name", "parent", "model", "handle", "handles", "session", "session_id", "states", "job"}

Requests = Message | Iterable[Message]
Named = Callable[[str, Caller], Requests]
Held = Callable[[int], Requests]

S, V, C = "sessions/{}", "models/{}/versions/1", "jobs/{}/checkpoints/1"


def of(request: type[Message], pattern: str, /, *, field: str = "name", **more: object) -> Named:
    return lambda id, caller: request(**{field: pattern.format(id)}, **more)


# What names a thing by its id; the thing of this id is there, and another tenant's.
BY_NAME: list[tuple[str, Named]] = [
    ("CreateSession", of(sessions.CreateSessionRequest, "{}", field="session_id",
                         model="models/tiny")),
    ("CreateSession", of(sessions.CreateSessionRequest, "models/{}", field="model")),
    ("AttachSession", of(sessions.AttachSessionRequest, S)),
    ("AttachSession", of(sessions.AttachSessionRequest, S, durable_index=1)),
    ("GetSession", of(sessions.GetSessionRequest, S)),
    ("ListSessions", of(sessions.ListSessionsRequest, "models/{}", field="model")),
    ("DeleteSession", of(sessions.DeleteSessionRequest, S)),
    ("ForkSession", of(sessions.ForkSessionRequest, S)),
    ("BookmarkSession", of(sessions.BookmarkSessionRequest, S, bookmark="here")),
    ("MigrateSession", of(sessions.MigrateSessionRequest, S, model="models/tiny")),
    ("RewindSession", of(sessions.RewindSessionRequest, S, steps=1)),
    ("ResetSession", of(sessions.ResetSessionRequest, S)),
    ("ExportSession", of(sessions.ExportSessionRequest, S)),
    ("ImportSession", lambda id, caller: sessions.ImportSessionRequest(
        session_id=id, snapshot=snapshot(caller))),
    ("ImportSession", lambda id, caller: sessions.ImportSessionRequest(
        model=f"models/{id}", snapshot=snapshot(caller))),
    ("TouchSession", of(sessions.TouchSessionRequest, S)),
    ("ReplaySession", of(sessions.ReplaySessionRequest, S)),
    ("InspectSession", of(sessions.InspectSessionRequest, S)),
    ("StepStates", of(inference.StepStatesRequest, "models/{}", field="model", states=[b""],
                      inputs=X)),
    ("Predict", of(inference.PredictRequest, "models/{}", field="model", lengths=[1], inputs=X)),
    ("Trace", of(inference.TraceRequest, S, field="session", inputs=X)),
    ("Trace", of(inference.TraceRequest, "models/{}", field="model", inputs=X)),
    ("Generate", of(inference.GenerateRequest, "models/{}", field="model")),
    ("GetModel", of(models.GetModelRequest, "models/{}")),
    ("ListModelVersions", of(models.ListModelVersionsRequest, "models/{}", field="parent")),
    ("GetModelVersion", of(models.GetModelVersionRequest, V)),
    ("GetModelVersion", of(models.GetModelVersionRequest, "models/{}/aliases/stable")),
    ("UploadModelVersion", lambda id, caller: upload(caller, id)),
    ("ImportModelVersion", of(models.ImportModelVersionRequest, "models/{}", field="parent",
                              path="tiny/1")),
    ("ExportModelVersion", of(models.ExportModelVersionRequest, V)),
    ("LoadModelVersion", of(models.LoadModelVersionRequest, V)),
    ("UnloadModelVersion", of(models.UnloadModelVersionRequest, V, force=True)),
    ("DeleteModelVersion", of(models.DeleteModelVersionRequest, V)),
    ("TokenizeText", of(models.TokenizeTextRequest, "models/{}", texts=["a"])),
    ("SetModelAlias", of(models.SetModelAliasRequest, "models/{}", alias="new", version=1)),
    ("DeleteModelAlias", of(models.DeleteModelAliasRequest, "models/{}", alias="stable")),
    ("GetHealthPolicy", of(models.GetHealthPolicyRequest, "models/{}")),
    ("SetHealthPolicy", of(models.SetHealthPolicyRequest, "models/{}",
                           policy=model_pb2.HealthPolicy())),
    ("UploadDataset", lambda id, caller: pieces(FOX.encode(), name="fox.txt", id=id)),
    ("UploadDataset", lambda id, caller: pieces(b"other bytes", name="fox.txt", id=id)),
    ("GetDataset", of(training.GetDatasetRequest, "datasets/{}")),
    ("DeleteDataset", of(training.DeleteDatasetRequest, "datasets/{}")),
    ("CreateJob", lambda id, caller: job("new", dataset=id)),
    ("CreateJob", lambda id, caller: job_from_own(id, caller)),
    ("GetJob", of(training.GetJobRequest, "jobs/{}")),
    ("ListJobs", of(training.ListJobsRequest, "models/{}", field="model")),
    ("CancelJob", of(training.CancelJobRequest, "jobs/{}")),
    ("ResumeJob", of(training.ResumeJobRequest, "jobs/{}")),
    ("DeleteJob", of(training.DeleteJobRequest, "jobs/{}")),
    ("WatchJob", of(training.WatchJobRequest, "jobs/{}")),
    ("ListCheckpoints", of(training.ListCheckpointsRequest, "jobs/{}", field="parent")),
    ("PromoteCheckpoint", of(training.PromoteCheckpointRequest, C, model="models/own")),
    ("DiagnoseGradients", of(training.DiagnoseGradientsRequest, C)),
]  # fmt: skip

# What names a session by its handle.
BY_HANDLE: list[tuple[str, Held]] = [
    ("Step", step),
    ("Step", lambda handle: step(handle, 1)),
    ("Step", lambda handle: inference.StepRequest(
        handles=[handle], step_indexes=[1], durable_indexes=[1], inputs=X)),
    ("Step", lambda handle: inference.StepRequest(
        handles=[handle, handle], step_indexes=[1, 2], lengths=[2, 1],
        inputs=tensors.encode(np.ones((3, 3), np.float32)))),
    ("StreamSteps", lambda handle: inference.StreamStepsRequest(step=step(handle, 1))),
    ("Generate", lambda handle: inference.GenerateRequest(
        handle=handle, tokens=inference.TokenList(ids=[1]), max_tokens=1)),
]  # fmt: skip

tenants = (f"rival-{number}" for number in itertools.count())


def snapshot(caller: Caller) -> session_pb2.Snapshot:
    """Of a session of the caller's own."""
    [made] = caller.call("CreateSession", sessions.CreateSessionRequest(model="models/tiny"))
    [found] = caller.call("ExportSession", sessions.ExportSessionRequest(name=made.name))
    taken: session_pb2.Snapshot = found.snapshot
    return taken


def job_from_own(id: str, caller: Caller) -> training.CreateJobRequest:
    caller.call("UploadDataset", *pieces(FOX.encode(), name="fox.txt", id="own"))
    return job(id, dataset="own")


def all_of(requests: Requests) -> list[Message]:
    return [requests] if isinstance(requests, Message) else list(requests)


def test_every_rpc_that_names_something_is_tried() -> None:
    tried = {name for name, _ in (*BY_NAME, *BY_HANDLE)}
    assert tried | NAMELESS == set(METHODS)
    for name in NAMELESS:
        assert not NAMES & {field.name for field in METHODS[name].input_type.fields}


@pytest.mark.parametrize(
    ("name", "make"), BY_NAME, ids=[f"{place}-{name}" for place, (name, _) in enumerate(BY_NAME)]
)
def test_what_another_tenant_has_looks_like_what_there_is_not(
    wire: grpc.Channel, estate: Estate, name: str, make: Named
) -> None:
    before = estate.inventory()
    outcomes = []
    for id in ("mine", "none"):
        caller = Caller(wire, next(tenants))
        outcomes.append(caller.outcome(name, all_of(make(id, caller)), id, caller.tenant))
    foreign, unknown = outcomes
    assert foreign == unknown
    assert estate.inventory() == before


@pytest.mark.parametrize(
    ("name", "make"), BY_HANDLE, ids=[f"{place}-{n}" for place, (n, _) in enumerate(BY_HANDLE)]
)
def test_another_tenant_s_handle_looks_like_one_that_never_was(
    wire: grpc.Channel, estate: Estate, name: str, make: Held
) -> None:
    before = estate.inventory()
    caller = Caller(wire, next(tenants))
    kept = estate.letters.handle if name == "Generate" else estate.session.handle
    # With sessions of its own a tenant is known to the table, and without any it is not.
    for _ in range(2):
        foreign, unknown = (
            caller.outcome(name, all_of(make(handle)), str(handle), f"{handle:#018x}")
            for handle in (kept, kept ^ 1 << 50)
        )
        assert foreign == unknown
        assert "no session has the handle" in "".join(foreign.said)
        caller.call("CreateSession", sessions.CreateSessionRequest(model="models/tiny"))
    assert estate.inventory() == before


def test_a_message_of_own_and_foreign_handles_runs_the_own_ones(
    wire: grpc.Channel, estate: Estate
) -> None:
    before = estate.inventory()
    caller = Caller(wire, next(tenants))
    [own] = caller.call("CreateSession", sessions.CreateSessionRequest(model="models/tiny"))
    for index, handles in enumerate(
        ([estate.session.handle, own.handle], [own.handle, estate.session.handle])
    ):
        indexes = [index if handle == own.handle else 1 for handle in handles]
        inputs = tensors.encode(np.ones((2, 3), np.float32))
        request = inference.StepRequest(handles=handles, step_indexes=indexes, inputs=inputs)
        [answer] = caller.call("Step", request)
        [error] = answer.errors
        assert handles[error.item] == estate.session.handle
        assert error.reason == "SESSION_NOT_FOUND"
        assert len(tensors.decode(answer.outputs)) == 1
    assert estate.inventory() == before


def test_the_former_handle_of_another_tenant_says_nothing(
    wire: grpc.Channel, estate: Estate
) -> None:
    request = sessions.CreateSessionRequest(model="models/tiny")
    [made] = estate.owner.call("CreateSession", request)
    for end in (
        sessions.AttachSessionRequest(name=made.name),
        sessions.DeleteSessionRequest(name=made.name),
    ):
        estate.owner.call(type(end).__name__.removesuffix("Request"), end)
        rival = Caller(wire, next(tenants))
        [answer] = rival.call("Step", step(made.handle))
        assert [error.reason for error in answer.errors] == ["SESSION_NOT_FOUND"]
        [own] = estate.owner.call("Step", step(made.handle))
        assert [error.reason for error in own.errors] != ["SESSION_NOT_FOUND"]


def test_lists_and_counts_are_of_the_caller_s_own(wire: grpc.Channel, estate: Estate) -> None:
    rival = Caller(wire, next(tenants))
    [listed] = rival.call("ListSessions", sessions.ListSessionsRequest())
    assert (len(listed.sessions), listed.total_size) == (0, 0)
    assert not rival.call("ListDatasets", training.ListDatasetsRequest())[0].datasets
    assert not rival.call("ListJobs", training.ListJobsRequest())[0].jobs
    seen = {
        one.name: one.tenant
        for one in rival.call("ListModels", models.ListModelsRequest())[0].models
    }
    assert "models/mine" not in seen
    assert seen["models/tiny"] == ""
    [info] = rival.call("GetServerInfo", admin.GetServerInfoRequest())
    assert info.sessions == 0
    assert "models/mine/versions/1" not in info.ready_versions
    [version] = rival.call("GetModelVersion", models.GetModelVersionRequest(name="models/tiny"))
    assert version.sessions == 0


def test_the_operator_sees_all_and_works_in_a_tenant_by_naming_it(
    wire: grpc.Channel, estate: Estate
) -> None:
    operator = Caller(wire, "")
    lists = {
        "ListSessions": (sessions.ListSessionsRequest(page_size=1000), "sessions"),
        "ListDatasets": (training.ListDatasetsRequest(page_size=1000), "datasets"),
        "ListJobs": (training.ListJobsRequest(page_size=1000), "jobs"),
        "ListModels": (models.ListModelsRequest(page_size=1000), "models"),
    }
    for name, (request, field) in lists.items():
        [page] = operator.call(name, request)
        assert (f"{field}/mine", "acme") in [(one.name, one.tenant) for one in getattr(page, field)]
    # A handle needs no tenant: there is only one session that has it.
    [answer] = operator.call("Step", step(estate.session.handle, 1))
    assert not answer.errors


def test_a_shared_model_is_for_use_and_not_for_change(wire: grpc.Channel, estate: Estate) -> None:
    for name, request in {
        "LoadModelVersion": models.LoadModelVersionRequest(name="models/tiny"),
        "UnloadModelVersion": models.UnloadModelVersionRequest(name="models/tiny/versions/1"),
        "DeleteModelVersion": models.DeleteModelVersionRequest(name="models/tiny/versions/1"),
        "SetModelAlias": models.SetModelAliasRequest(name="models/tiny", alias="a", version=1),
        "DeleteModelAlias": models.DeleteModelAliasRequest(name="models/tiny", alias="a"),
        "SetHealthPolicy": models.SetHealthPolicyRequest(name="models/tiny"),
    }.items():
        outcome = estate.owner.outcome(name, [request])
        assert "MODEL_SHARED" in outcome.said[0], name
    tokens = tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_INT64, shape=[1], data=bytes(8))
    predict = inference.PredictRequest(model="models/letters", lengths=[1], inputs=tokens)
    assert estate.owner.call("Predict", predict)

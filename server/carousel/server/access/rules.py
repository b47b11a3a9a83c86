"""The rules: which scopes each RPC needs; an RPC without a rule is not served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

PUBLIC = "public"
"""Answered without any credential."""

ANY = "any"
"""Any credential will do, whatever its scopes."""

HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"


def _all(service: str, scope: str, methods: str) -> dict[str, str]:
    return {f"{service}/{method}": scope for method in methods.split()}


RULES: Mapping[str, str] = {
    **_all(
        "carousel.v1.SessionService",
        "sessions",
        "CreateSession AttachSession GetSession ListSessions DeleteSession ForkSession "
        "BookmarkSession MigrateSession RewindSession ResetSession ExportSession ImportSession "
        "TouchSession ReplaySession InspectSession",
    ),
    **_all(
        "carousel.v1.InferenceService",
        "infer",
        "Step StreamSteps StepStates Predict Generate Trace",
    ),
    **_all(
        "carousel.v1.ModelService",
        "models",
        "ListModels GetModel ListModelVersions GetModelVersion UploadModelVersion "
        "ImportModelVersion ExportModelVersion LoadModelVersion UnloadModelVersion "
        "DeleteModelVersion SetModelAlias DeleteModelAlias GetHealthPolicy SetHealthPolicy",
    ),
    # A client that has text for a session asks for its tokens first.
    "carousel.v1.ModelService/TokenizeText": "infer",
    **_all(
        "carousel.v1.TrainingService",
        "train",
        "UploadDataset GetDataset ListDatasets DeleteDataset CreateJob GetJob ListJobs CancelJob "
        "ResumeJob DeleteJob WatchJob ListCheckpoints DiagnoseGradients",
    ),
    # It writes to the models too; so does a job that promotes, which CreateJob asks about.
    "carousel.v1.TrainingService/PromoteCheckpoint": "models train",
    # Limits that every client needs to know, and nothing of anybody's.
    "carousel.v1.AdminService/GetServerInfo": ANY,
    # A tenant is told its own.
    "carousel.v1.AdminService/GetQuotas": ANY,
    "carousel.v1.AdminService/GetStatistics": "metrics",
    "carousel.v1.AdminService/DrainServer": "admin",
    **_all(HEALTH, PUBLIC, "Check List Watch"),
    **_all(REFLECTION, PUBLIC, "ServerReflectionInfo"),
    **_all(
        "grpc.channelz.v1.Channelz",
        "admin",
        "GetTopChannels GetServers GetServer GetServerSockets GetChannel GetSubchannel GetSocket",
    ),
}
"""By full name; where there are two scopes, both. What is public is listed as such, and can be
closed."""


class NoRule(Exception):
    """A server was about to serve an RPC that nobody decided about."""


def closing(services: Iterable[str]) -> dict[str, str]:
    """The rules with these public services closed: any credential will do, but one it must be."""
    closed = frozenset(services)
    return {
        method: ANY if rule == PUBLIC and method.partition("/")[0] in closed else rule
        for method, rule in RULES.items()
    }

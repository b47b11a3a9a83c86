"""The calls of ModelService and AdminService."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from carousel.client import _model_values as values
from carousel.client import _server_values
from carousel.client._call import Call, nothing
from carousel.client._channel import TENANT_HEADER
from carousel.client._health import HealthRule, policy, policy_message
from carousel.client._model_values import Model, ModelVersion
from carousel.client._names import model_name, parent_name
from carousel.client._server_values import ServerInfo, Statistics, TenantQuotas
from carousel.client._times import Seconds, to_duration
from carousel.errors import (
    CarouselError,
    DeadlineExceeded,
    InvalidField,
    ServerUnreachable,
    Unavailable,
)
from carousel.v1 import admin_service_pb2 as admin_pb
from carousel.v1 import model_pb2
from carousel.v1 import model_service_pb2 as pb

Ints = npt.NDArray[np.int64]

SLOW = 300.0
"""Seconds for what reads or checks whole weights."""


def list_models(page_token: str) -> Call[tuple[list[Model], str]]:
    request = pb.ListModelsRequest(page_size=1000, page_token=page_token)
    return Call(_path("ListModels"), request, pb.ListModelsResponse, _models)


def get_model(name: str) -> Call[Model]:
    return _model("GetModel", pb.GetModelRequest(name=parent_name(name)))


def list_versions(model: str | Model, page_token: str) -> Call[tuple[list[ModelVersion], str]]:
    name, tenant = (model.id, model.tenant) if isinstance(model, Model) else (model, "")
    request = pb.ListModelVersionsRequest(
        parent=parent_name(name), page_size=1000, page_token=page_token
    )
    return Call(
        _path("ListModelVersions"),
        request,
        pb.ListModelVersionsResponse,
        _versions,
        metadata=((TENANT_HEADER, tenant),) if tenant else (),
    )


def get_version(name: str) -> Call[ModelVersion]:
    return _version("GetModelVersion", pb.GetModelVersionRequest(name=model_name(name)))


def import_model(
    path: str, *, model: str, version: int, validate_only: bool, request_id: str | None
) -> Call[ModelVersion]:
    request = pb.ImportModelVersionRequest(
        parent=parent_name(model),
        version=version,
        path=path,
        validate_only=validate_only,
        request_id=request_id or uuid.uuid4().hex,
    )
    return _version("ImportModelVersion", request, timeout=SLOW)


def load(name: str, precision: str | None) -> Call[ModelVersion]:
    wanted = model_pb2.STEP_PRECISION_UNSPECIFIED
    if precision is not None:
        numbers = {name: number for number, name in values.PRECISIONS.items()}
        if precision not in numbers:
            raise InvalidField(
                f"precision must be one of {', '.join(numbers)}, got {precision!r}",
                field="precision",
            )
        wanted = numbers[precision]
    request = pb.LoadModelVersionRequest(name=model_name(name), precision=wanted)
    return _version("LoadModelVersion", request, timeout=SLOW)


def unload(name: str, *, force: bool) -> Call[ModelVersion]:
    request = pb.UnloadModelVersionRequest(name=model_name(name), force=force)
    return _version("UnloadModelVersion", request)


def delete_version(name: str) -> Call[None]:
    request = pb.DeleteModelVersionRequest(name=model_name(name))
    return Call(_path("DeleteModelVersion"), request, empty_pb2.Empty, nothing)


def tokenize(name: str, texts: Sequence[str]) -> Call[list[Ints]]:
    if isinstance(texts, str):  # a sequence of its characters, which nobody means
        raise InvalidField("texts must be a list of texts, got one text", field="texts")
    request = pb.TokenizeTextRequest(name=model_name(name), texts=texts)
    return Call(_path("TokenizeText"), request, pb.TokenizeTextResponse, _tokens)


def set_alias(model: str, alias: str, version: int) -> Call[Model]:
    request = pb.SetModelAliasRequest(name=parent_name(model), alias=alias, version=version)
    return _model("SetModelAlias", request)


def delete_alias(model: str, alias: str) -> Call[Model]:
    request = pb.DeleteModelAliasRequest(name=parent_name(model), alias=alias)
    return _model("DeleteModelAlias", request)


def get_health_policy(model: str) -> Call[tuple[HealthRule, ...]]:
    request = pb.GetHealthPolicyRequest(name=parent_name(model))
    return Call(_path("GetHealthPolicy"), request, model_pb2.HealthPolicy, policy)


def set_health_policy(model: str, rules: Sequence[HealthRule]) -> Call[tuple[HealthRule, ...]]:
    request = pb.SetHealthPolicyRequest(name=parent_name(model), policy=policy_message(rules))
    return Call(_path("SetHealthPolicy"), request, model_pb2.HealthPolicy, policy)


def quotas() -> Call[list[TenantQuotas]]:
    path, request = "carousel.v1.AdminService/GetQuotas", admin_pb.GetQuotasRequest()
    return Call(path, request, admin_pb.GetQuotasResponse, _server_values.tenant_quotas)


def server_info() -> Call[ServerInfo]:
    path = "carousel.v1.AdminService/GetServerInfo"
    request = admin_pb.GetServerInfoRequest()
    return Call(path, request, admin_pb.ServerInfo, _server_values.server_info)


def statistics() -> Call[Statistics]:
    path = "carousel.v1.AdminService/GetStatistics"
    request = admin_pb.GetStatisticsRequest()
    return Call(path, request, admin_pb.Statistics, _server_values.statistics)


def drain(grace: Seconds | None, successor: str) -> Call[None]:
    request = admin_pb.DrainServerRequest(successor=successor)
    if grace is not None:
        request.timeout.CopyFrom(to_duration(grace))
    path = "carousel.v1.AdminService/DrainServer"
    return Call(path, request, admin_pb.DrainServerResponse, nothing)


def _path(method: str) -> str:
    return f"carousel.v1.ModelService/{method}"


def _model(method: str, request: Message) -> Call[Model]:
    return Call(_path(method), request, model_pb2.Model, values.model)


def _version(method: str, request: Message, *, timeout: float = 0.0) -> Call[ModelVersion]:
    return Call(_path(method), request, model_pb2.ModelVersion, values.model_version, timeout)


def _models(message: pb.ListModelsResponse) -> tuple[list[Model], str]:
    return [values.model(one) for one in message.models], message.next_page_token


def _versions(message: pb.ListModelVersionsResponse) -> tuple[list[ModelVersion], str]:
    return [values.model_version(one) for one in message.versions], message.next_page_token


def _tokens(message: pb.TokenizeTextResponse) -> list[Ints]:
    tokens = np.asarray(message.tokens, np.int64)
    return np.split(tokens, np.cumsum(message.lengths)[:-1])


def check_waiting(error: CarouselError, target: str, left: float) -> None:
    """Whether to wait for a server once more; raises when not."""
    if isinstance(error, DeadlineExceeded) or (left <= 0 and isinstance(error, Unavailable)):
        raise ServerUnreachable(f"no server answered at {target} in time") from error
    if not isinstance(error, Unavailable):
        raise error

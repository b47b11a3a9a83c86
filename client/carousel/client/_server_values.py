"""The server and its metrics as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from carousel.client._times import to_datetime, to_timedelta
from carousel.v1 import admin_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """How a server's store of sessions is doing; `message` says what went wrong last."""

    kind: str
    healthy: bool
    message: str
    lag_steps: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server and its limits, as the contract describes them. `store` is None without one."""

    version: str
    instance_id: str
    start_time: datetime
    device: str
    shards: int
    draining: bool
    sessions: int
    max_sessions: int
    max_batch: int
    max_chunk: int
    max_message_bytes: int
    max_tokens: int
    default_ttl: timedelta
    ready_versions: tuple[str, ...]
    store: StoreStatus | None
    bit_exact: bool


@dataclass(frozen=True, slots=True)
class Quota:
    """What a tenant uses of one thing; `limit` is None where there is none."""

    name: str
    limit: int | None
    in_use: int


@dataclass(frozen=True, slots=True)
class TenantQuotas:
    """All quotas of one tenant."""

    tenant: str
    quotas: tuple[Quota, ...]


class MetricType(StrEnum):
    """What kind of metric a family is."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricSample:
    """One value with its labels; the name carries a suffix such as `_total`."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """One metric with all its label values."""

    name: str
    help: str
    type: MetricType
    samples: tuple[MetricSample, ...]


@dataclass(frozen=True, slots=True)
class Statistics:
    """All metrics of a server at one moment."""

    create_time: datetime
    families: tuple[MetricFamily, ...]

    def value(self, name: str, **labels: str) -> float:
        """The sum over all samples of this name that have these labels; 0 without any."""
        wanted = labels.items()
        samples = (sample for family in self.families for sample in family.samples)
        return sum(s.value for s in samples if s.name == name and wanted <= s.labels.items())


def tenant_quotas(message: pb.GetQuotasResponse) -> list[TenantQuotas]:
    return [
        TenantQuotas(
            one.tenant,
            tuple(
                Quota(q.name, q.limit if q.HasField("limit") else None, q.in_use)
                for q in one.quotas
            ),
        )
        for one in message.tenants
    ]


def server_info(message: pb.ServerInfo) -> ServerInfo:
    return ServerInfo(
        version=message.version,
        instance_id=message.instance_id,
        start_time=to_datetime(message.start_time),
        device=message.device,
        shards=message.shards,
        draining=message.draining,
        sessions=message.sessions,
        max_sessions=message.max_sessions,
        max_batch=message.max_batch,
        max_chunk=message.max_chunk,
        max_message_bytes=message.max_message_bytes,
        max_tokens=message.max_tokens,
        default_ttl=to_timedelta(message.default_ttl),
        ready_versions=tuple(message.ready_versions),
        store=_store(message.store) if message.HasField("store") else None,
        bit_exact=message.bit_exact,
    )


def _store(message: pb.StoreStatus) -> StoreStatus:
    return StoreStatus(
        kind=message.kind,
        healthy=message.healthy,
        message=message.message,
        lag_steps=message.lag_steps,
    )


def statistics(message: pb.Statistics) -> Statistics:
    return Statistics(to_datetime(message.create_time), tuple(map(_family, message.families)))


def _family(message: pb.MetricFamily) -> MetricFamily:
    samples = tuple(MetricSample(s.name, dict(s.labels), s.value) for s in message.samples)
    return MetricFamily(message.name, message.help, _TYPES[message.type], samples)


_TYPES: dict[int, MetricType] = {
    number: MetricType(name.removeprefix("METRIC_TYPE_").lower())
    for name, number in pb.MetricType.items()
    if number
}

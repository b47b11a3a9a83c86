"""AdminService: what the server is and what it counts."""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import version
from typing import Protocol

from carousel import exposition
from carousel.server.hall import Hall
from carousel.server.quotas import QUOTAS
from carousel.server.quotas.usage import Usage
from carousel.server.rpc import Context
from carousel.server.tenants import tenant_of
from carousel.v1 import admin_service_pb2 as pb


class Drain(Protocol):
    """Begins to drain."""

    def __call__(self, timeout: float | None, *, successor: str) -> None: ...


class AdminService:
    """Describes the server, reads its metrics, drains it."""

    def __init__(self, hall: Hall, usage: Usage, *, instance_id: str, drain: Drain) -> None:
        self._hall = hall
        self._usage = usage
        self._instance_id = instance_id
        self._drain = drain
        self._start_time = time.time_ns()

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.ServerInfo:
        settings, registry, tenant = self._hall.settings, self._hall.registry, tenant_of(context)
        table = self._hall.engine.table
        info = pb.ServerInfo(
            version=version("carousel-rnn"),
            instance_id=self._instance_id,
            device=registry.device,
            shards=1,
            draining=self._hall.draining,
            sessions=table.owners.holding(tenant).sessions if tenant else len(table),
            max_sessions=settings.max_sessions,
            max_batch=settings.max_batch,
            max_chunk=settings.max_chunk,
            max_message_bytes=settings.max_message_bytes,
            max_tokens=settings.max_tokens,
            ready_versions=sorted(
                {version.name if tenant else version.key for version in registry.seen_by(tenant)}
            ),
            bit_exact=settings.bit_exact,
        )
        behind = self._hall.engine.behind
        if behind.store is not None:
            trouble = behind.trouble
            info.store.kind = behind.store.kind
            info.store.healthy = trouble is None
            info.store.message = "" if trouble is None else trouble.message
            info.store.lag_steps = 0 if tenant else behind.lag_steps
        info.start_time.FromNanoseconds(self._start_time)
        info.default_ttl.FromNanoseconds(int(settings.default_ttl * 1e9))
        return info

    async def GetQuotas(
        self, request: pb.GetQuotasRequest, context: Context
    ) -> pb.GetQuotasResponse:
        tenant, limits = tenant_of(context), self._hall.quotas.of
        found = await self._usage.of([tenant] if tenant else self._usage.tenants())
        return pb.GetQuotasResponse(
            tenants=[
                pb.TenantQuotas(
                    tenant=name,
                    quotas=[
                        pb.Quota(name=one, limit=limits(name).get(one), in_use=used[one])
                        for one in QUOTAS
                    ],
                )
                for name, used in found.items()
            ]
        )

    async def GetStatistics(
        self, request: pb.GetStatisticsRequest, context: Context
    ) -> pb.Statistics:
        # Thousands of samples take as long as several turns: not in the event loop's thread.
        return await asyncio.to_thread(exposition.statistics, self._hall.metrics.registry)

    async def DrainServer(
        self, request: pb.DrainServerRequest, context: Context
    ) -> pb.DrainServerResponse:
        timeout = request.timeout.ToNanoseconds() / 1e9 if request.HasField("timeout") else None
        self._drain(timeout, successor=request.successor)
        return pb.DrainServerResponse()

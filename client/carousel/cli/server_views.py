"""How a server looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from carousel.cli import tables
from carousel.cli.quantities import count, size, span, when

if TYPE_CHECKING:
    from rich.console import RenderableType

    from carousel.client import Quota, ServerInfo, StoreStatus, TenantQuotas


def info(one: ServerInfo) -> RenderableType:
    models = [
        name.removeprefix("models/").replace("/versions/", "/") for name in one.ready_versions
    ]
    return tables.facts(
        {
            "version": one.version,
            "instance": one.instance_id,
            "state": tables.state("draining" if one.draining else "ready"),
            "device": one.device + (", bit-exact" if one.bit_exact else ""),
            "started": when(one.start_time),
            "models": ", ".join(models) or "none",
            "sessions": f"{count(one.sessions)} of {count(one.max_sessions)}",
            "turn": f"up to {count(one.max_batch)} sessions",
            "chunk": f"up to {count(one.max_chunk)} steps",
            "message": f"up to {size(one.max_message_bytes)}",
            "generation": f"up to {count(one.max_tokens)} tokens",
            "default ttl": span(one.default_ttl),
            "store": _store(one.store),
        }
    )


def quotas(tenants: Sequence[TenantQuotas]) -> RenderableType:
    if not tenants:
        return "There are no tenants."
    rows = [
        (one.tenant, quota.name, shown(quota.in_use), _limit(quota, shown))
        for one in tenants
        for quota in one.quotas
        for shown in [size if quota.name.endswith("_bytes") else count]
        if quota.in_use or quota.limit is not None
    ]
    return tables.table("tenant", "quota", "in use", "limit", rows=rows,
                        numbers=("in use", "limit"))  # fmt: skip


def _limit(quota: Quota, shown: Callable[[int], str]) -> str:
    return "none" if quota.limit is None else shown(quota.limit)


def _store(store: StoreStatus | None) -> str:
    if store is None:
        return "none: sessions live in memory"
    if not store.healthy:
        return f"{store.kind} fails, {count(store.lag_steps)} steps wait: {store.message}"
    return f"{store.kind}, {count(store.lag_steps)} steps behind"


def draining(_: Mapping[str, Any]) -> RenderableType:
    return "The server is draining, and stops when what waits is finished."

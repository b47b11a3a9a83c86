"""Usage: what tenants use of their quotas, for GetQuotas and for the metrics."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable

from carousel.errors import CarouselError
from carousel.server.hall import Hall
from carousel.server.metrics import Metrics
from carousel.server.quotas.limits import QUOTAS
from carousel.server.quotas.quotas import Quotas
from carousel.server.training.office import Office

LIVE = ("sessions", "state_bytes", "steps_per_second", "streams", "queued_steps")
LABELS = 100  # tenants that have a label of their own: the first that the file names
OTHERS = "other"
LIVE_SECONDS, STORED_SECONDS = 1.0, 15.0
MOST = 1000  # tenants of one answer


class Usage:
    """Counts in the event loop's thread; what is in files and records, in another."""

    def __init__(self, hall: Hall, office: Office, metrics: Metrics) -> None:
        self._hall = hall
        self._office = office
        self._metrics = metrics
        self._stored: dict[str, dict[str, int]] = {}
        self._shown: set[str] = set()  # tenants with a label of their own

    @property
    def _quotas(self) -> Quotas:
        return self._hall.quotas

    def tenants(self) -> list[str]:
        """Those that the file names, or that have something live."""
        live = self._hall.engine.table.owners.tenants()
        return sorted({*self._quotas.named, *filter(None, live)})[:MOST]

    async def of(self, tenants: Iterable[str]) -> dict[str, dict[str, int]]:
        """By tenant and quota."""
        found = {tenant: self._live(tenant) for tenant in tenants}
        for tenant, used in found.items():
            used.update(await asyncio.to_thread(self._of_store, tenant))
        return found

    def _live(self, tenant: str) -> dict[str, int]:
        holding = self._hall.engine.table.owners.holding(tenant)
        numbers = (
            holding.sessions,
            holding.bytes,
            self._quotas.rate(tenant),
            self._quotas.streams(tenant),
            self._hall.queued(tenant),
        )
        return dict(zip(LIVE, numbers, strict=True))

    def _of_store(self, tenant: str) -> dict[str, int]:
        jobs = datasets = 0
        with contextlib.suppress(CarouselError):  # a database that is away has no figures
            jobs = self._office.jobs.unfinished(tenant)
            datasets = self._office.datasets.bytes_of(tenant)
        models = self._hall.store.bytes_of(tenant)
        return {"jobs": jobs, "dataset_bytes": datasets, "model_bytes": models}

    async def follow(self) -> None:
        """Read the file of quotas when it changes, and keep the gauges; for ever."""
        due = 0.0
        clock = asyncio.get_running_loop().time
        while True:
            self._quotas.refresh()
            if clock() >= due:
                due = clock() + STORED_SECONDS
                for tenant in self._quotas.named[:LABELS]:
                    self._stored[tenant] = await asyncio.to_thread(self._of_store, tenant)
            self._show()
            await asyncio.sleep(LIVE_SECONDS)

    def label(self, tenant: str) -> str:
        return tenant if tenant in self._quotas.named[:LABELS] else OTHERS

    def _show(self) -> None:
        """Gauges of those who have a label of their own, and of all others together."""
        named = self._quotas.named[:LABELS]
        others = Counter[str]()
        for gone in self._shown - set(named):
            for quota in QUOTAS:
                with contextlib.suppress(KeyError):
                    self._metrics.quota_usage.remove(gone, quota)
                    self._metrics.quota_limit.remove(gone, quota)
        self._shown = set(named)
        for tenant in {*named, *self.tenants()}:
            used = self._live(tenant)
            if tenant not in named:
                others.update(used)
                continue
            for quota, value in (used | self._stored.get(tenant, {})).items():
                self._metrics.quota_usage.labels(tenant, quota).set(value)
            for quota in QUOTAS:
                limit = self._quotas.of(tenant).get(quota)
                shown = float("inf") if limit is None else limit
                self._metrics.quota_limit.labels(tenant, quota).set(shown)
        for quota in LIVE:
            self._metrics.quota_usage.labels(OTHERS, quota).set(others[quota])

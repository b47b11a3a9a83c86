"""Quotas: what tenants use, held against their limits; what is over is refused as a whole."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from carousel.errors import QuotaExceeded
from carousel.server.quotas.bucket import Bucket
from carousel.server.quotas.limits import Limits, LimitsError, LimitsFile, read

log = logging.getLogger("carousel.quotas")

# When a refusal may no longer hold; what is stored goes away only when somebody deletes it.
RETRY_SECONDS = {
    "sessions": 1.0,
    "state_bytes": 1.0,
    "streams": 1.0,
    "queued_steps": 0.1,
    "jobs": 30.0,
}
LONGEST_RETRY = 60.0
BUCKETS = 4096  # tenants whose steps are measured

Refused = Callable[[str, str], None]


class Quotas:
    """Limits from a file, read again by `refresh` when it changes; without a file there are none.

    Sessions and what is stored are counted where they are; here are the rates and the streams.
    Steps are of the event loop's thread, `check` is of any.
    """

    def __init__(
        self, file: Path | None = None, *, refused: Refused = lambda tenant, quota: None
    ) -> None:
        """Raises LimitsError."""
        self._file = file
        self._stamp = self._look()
        self._limits = LimitsFile() if file is None else read(file)
        self._refused = refused
        self._buckets: dict[str, Bucket] = {}
        self._streams = Counter[str]()

    @property
    def on(self) -> bool:
        return self._file is not None

    @property
    def named(self) -> list[str]:
        """Tenants that the file names, in its order."""
        return list(self._limits.tenants or ())

    def of(self, tenant: str) -> Limits:
        return self._limits.of(tenant)

    def refresh(self) -> None:
        """Read the file again if it changed; what can't be used changes nothing."""
        if self._file is None or (stamp := self._look()) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._limits = read(self._file)
        except LimitsError as error:
            log.error("quotas stay what they were: %s", error)
        else:
            log.info("quotas were read again from %s", self._file)

    def check(self, tenant: str, quota: str, in_use: int, more: int = 1) -> None:
        """Raises QuotaExceeded where so much more would be over the limit."""
        limit = self.of(tenant).get(quota)
        if limit is not None and in_use + more > limit:
            raise self._over(tenant, quota, limit, in_use, more, RETRY_SECONDS.get(quota))

    def take_steps(self, tenant: str, steps: int) -> None:
        """Once for a message. Raises QuotaExceeded, and then nothing is taken."""
        if not tenant or self._file is None:
            return
        now = time.monotonic()
        bucket = self._buckets.get(tenant)
        if bucket is None:
            if len(self._buckets) >= BUCKETS:
                self._forget_idle(now)
            bucket = self._buckets[tenant] = Bucket(now)
        limit = self.of(tenant).steps_per_second
        wait = bucket.take(steps, limit, now)
        if wait and limit is not None:
            seconds = min(wait, LONGEST_RETRY) if limit else None
            used = round(bucket.rate(now))
            raise self._over(tenant, "steps_per_second", limit, used, steps, seconds)

    @contextlib.contextmanager
    def stream(self, tenant: str) -> Iterator[None]:
        """One stream more for as long as this lasts. Raises QuotaExceeded."""
        self.check(tenant, "streams", self._streams[tenant])
        self._streams[tenant] += 1
        try:
            yield
        finally:
            self._streams[tenant] -= 1
            if not self._streams[tenant]:
                del self._streams[tenant]

    def rate(self, tenant: str) -> int:
        bucket = self._buckets.get(tenant)
        return 0 if bucket is None else round(bucket.rate(time.monotonic()))

    def streams(self, tenant: str) -> int:
        return self._streams.get(tenant, 0)

    def _over(
        self, tenant: str, quota: str, limit: int, in_use: int, more: int, retry: float | None
    ) -> QuotaExceeded:
        self._refused(tenant, quota)
        return QuotaExceeded(
            f"the quota {quota} of the tenant is {limit:,}, {in_use:,} are in use, {more:,} more "
            "were asked for",
            metadata={"quota": quota, "limit": str(limit), "in_use": str(in_use)},
            field=f"tenants/{tenant}",
            retry_after=retry,
        )

    def _forget_idle(self, now: float) -> None:
        """Those who have not stepped of late; their buckets are full again."""
        self._buckets = {name: b for name, b in self._buckets.items() if b.rate(now) >= 1}
        if len(self._buckets) >= BUCKETS:
            self._buckets.pop(next(iter(self._buckets)))

    def _look(self) -> tuple[int, int, int] | None:
        if self._file is None:
            return None
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


UNLIMITED = Quotas()

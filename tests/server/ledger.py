"""A ledger: what callers saw of a server, to hold its counters against."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc

from carousel import exposition
from carousel.v1 import admin_service_pb2 as pb
from tests.conftest import RunningServer
from tests.processes import until
from tests.server.contract import Wire

Key = tuple[str, tuple[tuple[str, str], ...]]

# How often turns come, and what of many sessions is written together, is a matter of time.
TIMED = (
    "carousel_turn_batch_size_count",
    "carousel_turn_duration_seconds_count",
    "carousel_store_write_seconds_count",
    "carousel_store_copy_seconds_count",
)


def key(name: str, **labels: str) -> Key:
    return name, tuple(sorted(labels.items()))


def counts(server: RunningServer) -> dict[Key, float]:
    """Every counter of a server, and how often each histogram was told, by name and labels."""
    message = exposition.statistics(server.server.metrics.registry)
    return {
        key(sample.name, **sample.labels): sample.value
        for family in message.families
        for sample in family.samples
        if family.type == pb.METRIC_TYPE_COUNTER
        or (family.type == pb.METRIC_TYPE_HISTOGRAM and sample.name.endswith("_count"))
        if sample.name not in TIMED
    }


class Ledger:
    """What must have been counted: this, and nothing else. `model` is that of most entries."""

    def __init__(self, wire: Wire, model: str) -> None:
        self.entries: defaultdict[Key, float] = defaultdict(float)
        self.wire = wire
        self._model = model
        self._lock = threading.Lock()

    def add(self, name: str, count: float = 1, **labels: str) -> None:
        """`name` without its prefix."""
        with self._lock:
            self.entries[key(f"carousel_{name}", **labels)] += count

    def model(self, name: str, count: float = 1, *, model: str = "", **labels: str) -> None:
        self.add(name, count, model=model or self._model, **labels)

    def steps(self, count: int, *, model: str = "", alone: int | None = None) -> None:
        """Steps that were committed; `alone` is how many did not ride as part of a chunk."""
        labels = {"model": model or self._model, "version": "1"}
        self.add("steps_total", count, **labels)
        for what in ("duration", "queue", "compute"):
            single = count if alone is None else alone
            self.add(f"step_{what}_seconds_count", single, **labels)

    def failed(self, reason: str, count: int = 1, *, model: str = "") -> None:
        """Items of a version that were answered with an error."""
        labels = {"model": model or self._model, "version": "1", "reason": reason}
        self.add("steps_failed_total", count, **labels)

    def strayed(self, reason: str, count: int = 1) -> None:
        """Items of sessions that are not there."""
        self.add("steps_failed_total", count, model="none", version="none", reason=reason)

    def ended(self, reason: str, *, model: str = "") -> None:
        self.model("sessions_ended_total", model=model, reason=reason)
        self.model("session_steps_count", model=model)
        self.model("session_lifetime_seconds_count", model=model)

    def call(
        self,
        path: str,
        code: str = "OK",
        *,
        kind: str = "unary",
        received: int = 1,
        sent: int | None = None,
    ) -> None:
        """A call of a method, as in `SessionService/GetSession`, and the messages both ways."""
        service, method = path.split("/")
        labels = {
            "grpc_type": kind,
            "grpc_service": f"carousel.v1.{service}",
            "grpc_method": method,
        }
        if sent is None:
            sent = int(code == "OK")
        with self._lock:
            self.entries[key("grpc_server_started_total", **labels)] += 1
            self.entries[key("grpc_server_handled_total", **labels, grpc_code=code)] += 1
            self.entries[key("grpc_server_handling_seconds_count", **labels)] += 1
            self.entries[key("grpc_server_msg_received_total", **labels)] += received
            self.entries[key("grpc_server_msg_sent_total", **labels)] += sent


class _Watched(grpc.UnaryUnaryClientInterceptor):
    """Enters every unary call, with the code that its caller got."""

    def __init__(self, note: Callable[[str, str], None]) -> None:
        self._note = note

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        call = continuation(client_call_details, request)
        self._note(client_call_details.method.removeprefix("/carousel.v1."), call.code().name)
        return call


@contextmanager
def ledger(server: RunningServer, *, model: str = "tiny") -> Iterator[Ledger]:
    """Collects what happens inside; then it must be just what the server counted.

    What is called through `wire` is entered by itself: the calls, not what they do.
    """
    with grpc.insecure_channel(server.target) as channel:

        def note(path: str, code: str) -> None:
            book.call(path, code)

        book = Ledger(Wire(grpc.intercept_channel(channel, _Watched(note))), model)
        before = counts(server)
        yield book
        wanted = {entry: count for entry, count in book.entries.items() if count}

        def wrong() -> dict[Key, tuple[float, float]]:
            """What moved otherwise: how much, and how much it should have."""
            now = counts(server)
            found = {one: value - before.get(one, 0.0) for one, value in now.items()}
            pairs = {one: (found.get(one, 0.0), wanted.get(one, 0.0)) for one in found | wanted}
            return {one: pair for one, pair in pairs.items() if pair[0] != pair[1]}

        # What a call that broke off leaves behind is counted after its caller has gone.
        with suppress(AssertionError):
            until(lambda: not wrong())
        if amiss := wrong():
            raise AssertionError(f"(moved, should have moved): {amiss}")

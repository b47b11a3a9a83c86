"""What is asked and answered over HTTP: /metrics for Prometheus, /healthz and /readyz for
orchestrators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from carousel.exposition._shared import Shared

TIMEOUT_HEADER = "X-Prometheus-Scrape-Timeout-Seconds"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets: the status, a body of this kind, and more headers."""

    body: bytes
    kind: str = "text/plain; charset=utf-8"
    code: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Headers = Message  # which finds them in any case


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked: the path without its query, decoded, and the query by names; `uris` are those
    of the certificate that the client showed, `peer` is its address."""

    path: str
    query: Mapping[str, str]
    headers: Headers
    uris: Sequence[str] = ()
    peer: str = ""


Route = Callable[[Request], Answer]
"""Answers the requests for one path; in a thread of its own."""


class _Read(Collector):
    """Families that were read already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def routes(
    read: Callable[[float | None], Iterable[Metric]],
    ready: Callable[[], bool],
    *,
    shared: bool = False,
) -> dict[str, Route]:
    """The paths that everything here has.

    `read` gives the families, within so many seconds if whoever asks said how long they wait;
    `ready` says whether work is taken. Those who ask for metrics at once get the same if they are
    `shared`, which is for a `read` that does not look at how long anybody waits.
    """
    at_once: Shared[Answer] = Shared()

    def metrics(request: Request) -> Answer:
        encode, kind = choose_encoder(request.headers.get("Accept") or "")

        def made() -> Answer:
            return Answer(encode(_Read(read(_patience(request.headers)))), kind)

        return at_once.value(kind, made) if shared else made()

    def is_ready(request: Request) -> Answer:
        return Answer(b"ready\n") if ready() else Answer(b"no\n", code=503)

    return {
        "/metrics": metrics,
        "/healthz": lambda request: Answer(b"alive\n"),
        "/readyz": is_ready,
    }


def _patience(headers: Headers) -> float | None:
    """How long Prometheus waits, in seconds, if it says so."""
    try:
        seconds = float(headers.get(TIMEOUT_HEADER) or "")
    except ValueError:
        return None
    return seconds if seconds > 0 else None

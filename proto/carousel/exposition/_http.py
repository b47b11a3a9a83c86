"""The HTTP port: /metrics for Prometheus, /healthz and /readyz for orchestrators."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

log = logging.getLogger("carousel.http")

TIMEOUT_HEADER = "X-Prometheus-Scrape-Timeout-Seconds"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets: the status, and a body of this kind."""

    body: bytes
    kind: str = "text/plain; charset=utf-8"
    code: int = 200


Headers = Message  # which finds them in any case
Route = Callable[[Headers], Answer]
"""Answers the requests for one path, by their headers; in a thread of its own."""


class _Read(Collector):
    """Families that were read already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def routes(
    read: Callable[[float | None], Iterable[Metric]], ready: Callable[[], bool]
) -> dict[str, Route]:
    """The paths that everything here has.

    `read` gives the families, within so many seconds if whoever asks said how long they wait;
    `ready` says whether work is taken.
    """

    def metrics(headers: Headers) -> Answer:
        encode, kind = choose_encoder(headers.get("Accept") or "")
        return Answer(encode(_Read(read(_patience(headers)))), kind)

    def is_ready(headers: Headers) -> Answer:
        return Answer(b"ready\n") if ready() else Answer(b"no\n", code=503)

    return {
        "/metrics": metrics,
        "/healthz": lambda headers: Answer(b"alive\n"),
        "/readyz": is_ready,
    }


def _patience(headers: Headers) -> float | None:
    """How long Prometheus waits, in seconds, if it says so."""
    try:
        seconds = float(headers.get(TIMEOUT_HEADER) or "")
    except ValueError:
        return None
    return seconds if seconds > 0 else None


class HttpServer:
    """Answers GET in threads of its own. `port` is the one that it listens on."""

    def __init__(self, host: str, port: int, routes: Mapping[str, Route]) -> None:
        """Raises OSError where it can't listen."""

        class Handler(BaseHTTPRequestHandler):
            server_version = "carousel"
            sys_version = ""
            timeout = 10

            def do_GET(self) -> None:
                answer = _answer(routes, self.path, self.headers)
                self.send_response(answer.code)
                self.send_header("Content-Type", answer.kind)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, format: str, *args: object) -> None:
                """Scrapes are not news."""

        class Server(ThreadingHTTPServer):
            address_family = AF_INET6 if ":" in host else AF_INET
            daemon_threads = True

        self._server = Server((host, port), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="carousel-http")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take nothing new, and let go of the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _answer(routes: Mapping[str, Route], path: str, headers: Headers) -> Answer:
    route = routes.get(path.partition("?")[0])
    if route is None:
        return Answer(f"{', '.join(routes)}\n".encode(), code=404)
    try:
        return route(headers)
    except Exception:  # whoever asks must be told, and the log must say why
        log.exception("%s failed", path.partition("?")[0])
        return Answer(b"a fault of the server; its log says more\n", code=500)

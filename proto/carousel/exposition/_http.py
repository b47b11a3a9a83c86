"""The HTTP port: /metrics for Prometheus, /healthz and /readyz for orchestrators, and what else
whoever opens it has to show."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6
from typing import Any
from urllib.parse import parse_qsl, unquote

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

log = logging.getLogger("carousel.http")

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
    """What is asked: the path without its query, decoded, and the query by names."""

    path: str
    query: Mapping[str, str]
    headers: Headers


Route = Callable[[Request], Answer]
"""Answers the requests for one path; in a thread of its own."""


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

    def metrics(request: Request) -> Answer:
        encode, kind = choose_encoder(request.headers.get("Accept") or "")
        return Answer(encode(_Read(read(_patience(request.headers)))), kind)

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


class HttpServer:
    """Answers GET in threads of its own. `port` is the one that it listens on.

    A route whose path ends in `/*` stands for all names in that folder that have no route.
    """

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
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, format: str, *args: object) -> None:
                """Scrapes are not news."""

        class Server(ThreadingHTTPServer):
            address_family = AF_INET6 if ":" in host else AF_INET
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                log.debug("a connection broke off", exc_info=True)

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


def _answer(routes: Mapping[str, Route], target: str, headers: Headers) -> Answer:
    path, _, query = target.partition("?")
    route = routes.get(path) or routes.get(f"{path.rpartition('/')[0]}/*")
    if route is None:
        return Answer(f"{', '.join(routes)}\n".encode(), code=404)
    try:
        return route(Request(unquote(path), dict(parse_qsl(query)), headers))
    except Exception:  # whoever asks must be told, and the log must say why
        log.exception("%s failed", path)
        return Answer(b"a fault of the server; its log says more\n", code=500)

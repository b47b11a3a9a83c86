"""The HTTP port: few connections at once, and a request must come in time, so that those who only
hold connections take neither threads nor descriptors from anybody else."""

from __future__ import annotations

import io
import logging
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote

from carousel.exposition._certificate import Certificate
from carousel.exposition._http import Answer, Headers, Request, Route
from carousel.exposition._https import NO_CERTIFICATE, is_known, secured, uris_of
from carousel.exposition._loopback import is_loopback, names_loopback
from carousel.exposition._places import Places

log = logging.getLogger("carousel.http")

CONNECTIONS = 64
BACKLOG = 128  # of connections that the system holds until they are taken
HEAD_SECONDS = 10.0
BODY_SECONDS = 10.0

_FULL = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
_HEALTH = frozenset({"/healthz", "/readyz"})  # which tell nothing, and are asked by any name
_WRONG_HOST = Answer(
    b'{"error": {"reason": "WRONG_HOST", '
    b'"message": "this server is asked by localhost or a loopback address"}}',
    "application/json",
    421,
)
_WRONG_METHOD = Answer(b"there are GET and HEAD\n", code=405, headers={"Allow": "GET, HEAD"})


class HttpServer:
    """Answers GET and HEAD in threads of its own. `port` is the one that it listens on.

    A route whose path ends in `/*` stands for all names in that folder that have no route.
    Who is one more than `connections` gets the place of whoever has been silent for longest, and
    503 at once where all are being answered; whose request has not come after `head_seconds`,
    however it drips, is cut off. On loopback, who asks for more than health must name a loopback
    address. With a `certificate` it speaks HTTPS; where that names authorities of clients, who has
    no certificate of theirs is told health alone.
    """

    def __init__(
        self,
        host: str,
        port: int,
        routes: Mapping[str, Route],
        *,
        connections: int = CONNECTIONS,
        head_seconds: float = HEAD_SECONDS,
        certificate: Certificate | None = None,
    ) -> None:
        """Raises OSError where it can't listen."""
        local = is_loopback(host)
        closed = certificate is not None and certificate.files.client_ca is not None

        places = Places(connections)

        class Handler(_Handler):
            def answer(self) -> Answer:
                places.heard(threading.current_thread())
                if local and not _may_ask(self.path, self.headers):
                    return _WRONG_HOST
                if closed and not (_is_health(self.path) or is_known(self.connection)):
                    return NO_CERTIFICATE
                host, port = self.client_address[:2]
                peer = f"http:[{host}]:{port}" if ":" in host else f"http:{host}:{port}"
                return _answer(routes, self.path, self.headers, uris_of(self.connection), peer)

            def setup(self) -> None:
                super().setup()
                self.rfile = io.BufferedReader(_Head(self.connection, head_seconds))

        class Server(_Server):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

            def __init__(self) -> None:
                super().__init__((host, port), Handler)
                self.places = places

            def secured(self, request: socket.socket) -> socket.socket:
                if certificate is None:
                    return request
                return secured(request, certificate, head_seconds)

        self._server = Server()
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="carousel-http")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take nothing new, and let go of the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = BACKLOG
    places: Places

    def secured(self, request: socket.socket) -> socket.socket:
        """What the client speaks through; in the thread of the connection. Raises OSError."""
        raise NotImplementedError

    def finish_request(self, request: Any, client_address: Any) -> None:
        connection = self.secured(request)
        try:
            super().finish_request(connection, client_address)
        finally:
            if connection is not request:
                self.shutdown_request(connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        if not self.places.take(thread, request):
            request.setblocking(False)  # nothing may hold up the one who takes connections
            request.send(_FULL)
            self.shutdown_request(request)
            return
        try:
            thread.start()
        except BaseException:  # there is no thread to give the place back
            self.places.leave(thread)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.leave(threading.current_thread())

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection broke off", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server_version = "carousel"
    sys_version = ""
    default_request_version = "HTTP/1.0"  # 0.9 has no status to say what was wrong

    def answer(self) -> Answer:
        raise NotImplementedError

    def do_GET(self) -> None:
        self._give(self.answer())

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """In plain words; the library, which calls this, has pages of HTML."""
        if code == HTTPStatus.NOT_IMPLEMENTED:  # it has no such method
            self._give(_WRONG_METHOD)
        else:
            self._give(Answer(f"{message or HTTPStatus(code).phrase}\n".encode(), code=code))

    def _give(self, answer: Answer) -> None:
        self.connection.settimeout(BODY_SECONDS)
        self.send_response(answer.code)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not news."""


class _Head(io.RawIOBase):
    """What a connection sends until a moment; TimeoutError after it.

    A socket's own timeout begins again with every byte.
    """

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._end = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request did not come in time")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


def _may_ask(target: str, headers: Headers) -> bool:
    """False for a name of somebody else's that leads here: DNS rebinding."""
    return _is_health(target) or names_loopback(headers.get("Host") or "")


def _is_health(target: str) -> bool:
    return target.partition("?")[0] in _HEALTH


def _answer(
    routes: Mapping[str, Route], target: str, headers: Headers, uris: Sequence[str], peer: str
) -> Answer:
    path, _, query = target.partition("?")
    route = routes.get(path) or routes.get(f"{path.rpartition('/')[0]}/*")
    if route is None:
        return Answer(f"{', '.join(routes)}\n".encode(), code=404)
    try:
        return route(Request(unquote(path), dict(parse_qsl(query)), headers, uris, peer))
    except Exception:  # whoever asks must be told, and the log must say why
        log.exception("%s failed", path)
        return Answer(b"a fault of the server; its log says more\n", code=500)

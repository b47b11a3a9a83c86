"""The HTTP port: /metrics for Prometheus, /healthz and /readyz for orchestrators."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


class HttpServer:
    """Answers GET in threads of its own; `ready` says whether the server takes work."""

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, ready: Callable[[], bool]
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            server_version = "carousel"
            sys_version = ""
            timeout = 10

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    encode, kind = choose_encoder(self.headers.get("Accept", ""))
                    self.answer(200, kind, encode(registry))
                elif path == "/healthz":
                    self.answer(200, "text/plain", b"alive\n")
                elif path == "/readyz":
                    good = ready()
                    self.answer(200 if good else 503, "text/plain", b"ready\n" if good else b"no\n")
                else:
                    self.answer(404, "text/plain", b"/metrics, /healthz or /readyz\n")

            def answer(self, code: int, kind: str, body: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Scrapes are not news."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="carousel-http")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

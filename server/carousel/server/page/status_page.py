"""The page's routes: its files, its JSON, and who may see them."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from importlib import resources
from typing import Any

from carousel.errors import CarouselError, DeadlineExceeded
from carousel.exposition import Answer, Request, Route
from carousel.server.http_errors import trouble, trouble_of
from carousel.server.page.looks import Json, Looks
from carousel.server.page.numbers import SAMPLE_SECONDS

log = logging.getLogger("carousel.page")

PATIENCE_SECONDS = 10.0
FRESH_SECONDS = 0.5  # however many look, metrics are read no more often
KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

MayLook = Callable[[Request], None]
"""Whether whoever sends this request may see the page. Raises CarouselError if not."""


class StatusPage:
    """The routes. They run in threads of the HTTP server, and ask in the server's event loop."""

    def __init__(self, looks: Looks, loop: asyncio.AbstractEventLoop, may_look: MayLook) -> None:
        self._looks = looks
        self._may_look = may_look
        self._loop = loop
        self._files = _read_files()
        self._status = Fresh(lambda: self._ask(looks.status()))
        loop.call_later(SAMPLE_SECONDS, self._remember)

    @property
    def routes(self) -> dict[str, Route]:
        looks, ask = self._looks, self._ask
        asked: dict[str, Callable[[Request], Json]] = {
            "/page/status.json": lambda request: self._status.value(),
            "/page/models.json": lambda request: ask(looks.models()),
            "/page/sessions.json": lambda request: ask(looks.sessions(request.query)),
            "/page/sessions/*": lambda request: ask(looks.session(_id(request.path))),
            "/page/jobs.json": lambda request: ask(looks.jobs()),
            "/page/jobs/*": lambda request: ask(looks.job(_id(request.path), request.query)),
        }
        return {
            "/": self._guarded(lambda request: self._file("index.html")),
            "/page/*": self._guarded(lambda request: self._file(request.path.rpartition("/")[2])),
            **{path: self._guarded(_as_json(look)) for path, look in asked.items()},
        }

    def _remember(self) -> None:
        self._loop.call_later(SAMPLE_SECONDS, self._remember)
        self._loop.run_in_executor(None, self._looks.past.sample)

    def _guarded(self, route: Route) -> Route:
        def answer(request: Request) -> Answer:
            found = self._refusal(request) or route(request)
            return Answer(found.body, found.kind, found.code, {**HEADERS, **found.headers})

        return answer

    def _refusal(self, request: Request) -> Answer | None:
        elsewhere = request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site")
        if elsewhere and request.path != "/":
            return trouble(
                403, "WRONG_SITE", "pages of other sites may link to this page, and not ask"
            )
        try:
            self._may_look(request)
        except CarouselError as error:
            return trouble_of(error)
        return None

    def _file(self, name: str) -> Answer:
        found = self._files.get(name)
        return found or trouble(404, "NOT_FOUND", "there is no such file")

    def _ask(self, look: Coroutine[Any, Any, Json]) -> Json:
        """Raises CarouselError."""
        future = asyncio.run_coroutine_threadsafe(look, self._loop)
        try:
            return future.result(PATIENCE_SECONDS)
        except TimeoutError:
            future.cancel()
            raise DeadlineExceeded("the server did not answer in time") from None


class Fresh:
    """A value that is made again when it is older than a moment; by one thread at a time."""

    def __init__(self, make: Callable[[], Json]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[float, Json] | None = None

    def value(self) -> Json:
        with self._lock:
            if self._made is None or time.monotonic() - self._made[0] > FRESH_SECONDS:
                self._made = time.monotonic(), self._make()
            return self._made[1]


def _as_json(look: Callable[[Request], Json]) -> Route:
    def answer(request: Request) -> Answer:
        try:
            body = json.dumps(look(request), allow_nan=False)
            return Answer(body.encode(), "application/json")
        except CarouselError as error:
            return trouble_of(error)

    return answer


def _id(path: str) -> str:
    """`abc` of `/page/sessions/abc.json`, and `acme/abc` where a tenant has it; handlers refuse
    what is no key."""
    return path.split("/", 3)[3].removesuffix(".json")


def _read_files() -> dict[str, Answer]:
    """The files of the page, by name."""
    folder = resources.files("carousel.server.page") / "files"
    return {
        file.name: Answer(file.read_bytes(), kind)
        for file in folder.iterdir()
        if (kind := KINDS.get(file.name.rpartition(".")[2]))
    }

"""Targets: the servers to ask, some by names that stand for several addresses."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from carousel.client._channel import Door, door
from carousel.client._tls import TLS

log = logging.getLogger("carousel.exporter")

DNS = re.compile(r"dns:/{0,3}")
_ADDRESS = re.compile(r"(\[[^]]+\]|[^:\s]+):(\d{1,5})")

Lookup = Callable[[str, int], Iterable[str]]
"""The addresses that a name has now. Raises OSError."""


def addresses(host: str, port: int) -> list[str]:
    """As the system resolves a name, in order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return sorted({str(address[0]) for *_, address in found})


@dataclass(slots=True)
class Name:
    """A name with several addresses. `known` are those that it had last."""

    host: str
    port: int
    known: tuple[str, ...] = ()
    looking: Future[Iterable[str]] | None = None
    trouble: str = ""

    @property
    def target(self) -> str:
        return f"{self.host}:{self.port}"


class Targets:
    """What `carousel exporter` is told to ask. Safe to share between threads.

    A target is `host:port`; `dns:host:port` is every address that the name has, looked up again
    each time. Raises ValueError for what is neither, and for a token that would travel in the
    clear.
    """

    def __init__(
        self,
        targets: Sequence[str],
        *,
        tls: TLS | None = None,
        token: str | None = None,
        lookup: Lookup = addresses,
    ) -> None:
        if not targets:
            raise ValueError("targets must be one or more of host:port, got none")
        self._tls = tls
        self._token = token
        self._lookup = lookup
        self._pool = ThreadPoolExecutor(8, "carousel-dns")
        self._lock = threading.Lock()
        self._fixed: dict[str, Door] = {}
        self._names: list[Name] = []
        for target in targets:
            if (prefix := DNS.match(target)) is None:
                _parse(target)
                self._fixed[target] = door(target, tls, token, "")
            else:
                name = Name(*_parse(target[prefix.end() :]))
                self._door(name, name.host)
                self._names.append(name)

    def find(self, seconds: float) -> tuple[dict[str, Door], list[str]]:
        """Doors by target, and names of which no address is known. Takes so long at most."""
        doors, lost = dict(self._fixed), []
        with self._lock:
            for name in self._names:
                name.looking = name.looking or self._pool.submit(self._lookup, name.host, name.port)
            end = time.monotonic() + seconds
            for name in self._names:
                self._wait(name, end - time.monotonic())
                if not name.known:
                    lost.append(name.target)
                for address in name.known:
                    one = self._door(name, address)
                    doors[one.target] = one
        return doors, lost

    def _wait(self, name: Name, seconds: float) -> None:
        """Take what a look-up gives; without an answer, what was known is good for longer."""
        assert name.looking is not None
        trouble = ""
        wait([name.looking], max(seconds, 0.0))
        if not name.looking.done():
            trouble = "no answer yet"
        else:
            looked, name.looking = name.looking, None
            try:
                name.known = tuple(looked.result())
            except (OSError, UnicodeError) as error:
                trouble = str(error)
        if trouble and not name.trouble:
            log.warning("%s can't be looked up: %s", name.target, trouble)
        name.trouble = trouble

    def _door(self, name: Name, address: str) -> Door:
        """To one of a name's addresses; its certificate is the name's."""
        tls = self._tls
        if tls is not None and tls.server_name is None:
            tls = replace(tls, server_name=name.host)
        host = f"[{address}]" if ":" in address else address
        return door(f"{host}:{name.port}", tls, self._token, "")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _parse(target: str) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(target)
    if found is None or int(found[2]) > 65_535:
        raise ValueError(f"a target must be host:port or dns:host:port, got {target!r:.100}")
    return found[1].strip("[]"), int(found[2])

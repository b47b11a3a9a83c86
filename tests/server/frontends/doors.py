"""Which front end serves a connection, as the system knows it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Self

import grpc

from tests.conftest import RunningServer
from tests.processes import PATIENCE, until

TRIES = 64  # a front end that gets none of so many connections does not listen
ESTABLISHED = "01"


class Doors:
    """Opens channels to front ends; all are closed at the end."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._channels: list[grpc.Channel] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.close()

    @property
    def pids(self) -> list[int]:
        """Once all of them listen."""
        front_ends = self._server.server.front_ends
        assert front_ends is not None
        registry = self._server.server.metrics.registry
        count = self._server.settings.frontends
        until(lambda: registry.get_sample_value("carousel_frontends") == count)
        return front_ends.pids

    def to(self, pid: int) -> grpc.Channel:
        """A channel that this front end serves; who gets a connection is the system's choice."""
        for _ in range(TRIES):
            before = _connections(pid, self._server.server.port)
            options = (("grpc.use_local_subchannel_pool", 1),)
            channel = grpc.insecure_channel(self._server.target, options=options)
            self._channels.append(channel)
            grpc.channel_ready_future(channel).result(PATIENCE)
            if _connections(pid, self._server.server.port) - before:
                return channel
        raise AssertionError(f"none of {TRIES} connections came to {pid}")


def _connections(pid: int, port: int) -> set[str]:
    """Those of a process on a port of its own."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            inodes.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    rows = [
        row.split()
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return {
        row[9]
        for row in rows
        if row[3] == ESTABLISHED and int(row[1].rpartition(":")[2], 16) == port and row[9] in inodes
    }

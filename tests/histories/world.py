"""The world of a history: two servers with one store, clocks that are moved, crashes that are real
as far as a session can tell."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc

from carousel.server.work import NEVER
from tests.conftest import RunningServer, settings_of
from tests.server.contract import Wire

# Few enough that histories park sessions in memory and in the store; a session may have five rows.
ROWS, IN_MEMORY = 12, 2


class World:
    """Servers 0 and 1; both lose what is not in their store by `crash`."""

    def __init__(self, folder: Path, models: Path) -> None:
        self.ahead = 0.0
        self.servers = [
            RunningServer(
                settings_of(
                    folder,
                    store=models,
                    shipped=False,
                    device_rows=ROWS,
                    host_sessions=IN_MEMORY,
                ),
                clock=self.now,
            )
            for _ in range(2)
        ]
        self._channels = [grpc.insecure_channel(server.target) for server in self.servers]
        self.wires = [Wire(channel) for channel in self._channels]

    def now(self) -> float:
        return time.time() + self.ahead

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        for server in self.servers:
            server.stop()

    def crash(self, number: int) -> None:
        """A server forgets all that is not in the store, as if it were killed and started anew.

        What is on its way to the store at this moment may arrive or not.
        """
        hall = self.servers[number].server.hall
        behind = hall.engine.behind

        def forget() -> None:
            behind._moved.clear()
            behind._endings.clear()
            behind._spills.clear()
            behind._since = NEVER
            table = hall.engine.table
            for slot in list(table.slots.values()):
                hall.sessions.lose(slot)
            table.departed.clear()

        self._in_engine(number, forget)

    def settle(self) -> None:
        """Let both servers see that time has passed."""
        for number, server in enumerate(self.servers):
            hall = server.server.hall
            self._in_engine(number, lambda hall=hall: hall.sessions.sweep(self.now()))
            server.run(hall.at_rest.sweep(hall.engine.table.slots.__contains__))

    def _in_engine(self, number: int, function: Any) -> None:
        server = self.servers[number]

        async def call() -> None:
            await server.server.hall.engine.call(function)

        server.run(call())

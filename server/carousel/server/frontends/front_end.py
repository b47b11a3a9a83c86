"""A front end: the public gRPC server of a process beside the engine's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry

from carousel.server import logs, tls
from carousel.server.access.metrics import AccessMetrics
from carousel.server.access.opening import open_gate
from carousel.server.access_log import Recorder
from carousel.server.call_server import CallServer
from carousel.server.frontends import counts, records
from carousel.server.frontends.asking import Asking
from carousel.server.frontends.forwarded import OPTIONS
from carousel.server.frontends.link import Link
from carousel.server.frontends.relay import Relay
from carousel.server.frontends.stepping import Stepping
from carousel.server.resets.metrics import ResetMetrics
from carousel.server.rpc_metrics import RpcMetrics
from carousel.server.services import SERVICES
from carousel.server.settings import Settings

log = logging.getLogger("carousel.frontends")

COUNT_SECONDS = 0.5  # how often the engine's process is told what was counted
HEALTH: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]


class FrontEnd:
    """Of one process, from the moment that the engine's process tells it what to be."""

    def __init__(self, memory: int, near: socket.socket) -> None:
        self.ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._link = Link(
            memory, near, is_engine=False, receive=self._receive, lost=self._engine_lost
        )
        self._asking = Asking(self._link)
        self._steps: Stepping | None = None
        self._server: CallServer | None = None  # once it serves
        self._does: dict[int, Callable[[bytes], None]] = {
            records.BEGIN: lambda record: self._run(self._begin(records.read_plain(record))),
            records.ANSWER: self._asking.answered,
            records.RESPONSE: self._asking.answered,
            records.REFUSED: self._asking.answered,
            records.OPENED: self._asking.opened,
            records.DRAIN: self._drain,
            records.STOP: lambda record: self._run(self._stop(records.read_stop(record))),
        }

    def _receive(self, received: Sequence[bytes]) -> None:
        for record in received:
            try:
                self._does[records.kind_of(record)](record)
            except Exception:  # a bug must not silence the engine
                log.exception("a record of the engine's could not be dealt with")

    def _run(self, what: Any) -> None:
        task = asyncio.get_running_loop().create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _begin(self, told: dict[str, Any]) -> None:
        settings = Settings(**told["settings"])
        logs.configure(level=settings.log_level, style=settings.log_format)
        try:
            await self._serve(settings, told)
        except Exception:
            log.exception("the front end can't start")
            self._engine_lost()

    async def _serve(self, settings: Settings, told: dict[str, Any]) -> None:
        registry = CollectorRegistry()
        metrics, access, resets = (
            RpcMetrics(registry),
            AccessMetrics(registry),
            ResetMetrics(registry),
        )
        self._news = counts.News(counts.families(metrics, access, resets))
        self._gate = await asyncio.to_thread(open_gate, settings, access)
        self._channel = grpc.aio.insecure_channel(f"unix:{told['socket']}", options=OPTIONS)
        limits = dict(settings.channel_options(settings.max_message_bytes))
        limits["grpc.so_reuseport"] = 1
        recorder = Recorder(_Lines(self._link)) if told["recorded"] else None
        server = CallServer(tuple(limits.items()), settings, metrics, self._gate, recorder)
        servicers: dict[str, object] = {
            name: Relay(self._channel, service) for name, service in SERVICES.items()
        }
        if not told["traced"]:
            servicers["inference"] = self._steps = Stepping(self._channel, self._asking)
        server.add(servicers, Relay(self._channel, HEALTH), logged=not told["traced"])
        certificate = tls.open_certificate(settings.certificate_files, registry)
        if not await server.start(told["address"], certificate):
            raise RuntimeError(f"can't listen on {told['address']}")
        server.watch(resets)
        self._server = server
        self._gate.start()
        self._run(self._count())
        self._link.send(bytes((records.READY,)))

    async def _count(self) -> None:
        """Now and then, tell what was counted, if only that this process does not hang."""
        while True:
            self._tell_counts()
            await asyncio.sleep(COUNT_SECONDS)

    def _tell_counts(self) -> None:
        self._link.send(records.plain(records.COUNTS, self._news.take()))

    def _drain(self, record: bytes) -> None:
        if self._steps is not None:
            self._steps.drain(records.read_refusal(record[1:]))

    async def _stop(self, grace: float) -> None:
        if self._server is not None:
            await self._server.stop(grace)
            await self._gate.close()
            self._tell_counts()
            await self._link.sent()
        self.ended.set()

    def _engine_lost(self) -> None:
        """Without the engine there is nothing to be a front end of."""
        self.ended.set()


class _Lines:
    """Lines of the access log, which the engine's process writes."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def put(self, entry: dict[str, Any]) -> None:
        self._link.send(records.plain(records.LOG, entry))

    def close(self) -> None: ...


async def _main(memory: int, near: socket.socket) -> None:
    front_end = FrontEnd(memory, near)
    os.close(memory)
    await front_end.ended.wait()
    sys.stderr.flush()
    os._exit(0)  # gRPC may still wait for those who are gone


def main(memory: int, near: int) -> None:
    """Be a front end on the descriptors that the server left for it."""
    # The server ends its front ends itself, once they have finished what runs.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    ours = socket.socket(fileno=near)
    run: Any = asyncio.run
    with contextlib.suppress(ModuleNotFoundError):
        import uvloop

        run = uvloop.run
    run(_main(memory, ours))

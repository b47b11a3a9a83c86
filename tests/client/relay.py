"""A TCP relay between client and server that can be cut, stalled, half-closed and made late."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.processes import PATIENCE

T = TypeVar("T")


class Relay:
    """Listens on `target` and passes everything on, until it is told otherwise.

    With `tls` it takes TLS, and passes on what is in it. `on_answer(total)` is called with the
    bytes that came from the server so far, before they are passed on: a place to cut at.
    """

    def __init__(self, upstream: str, *, tls: ssl.SSLContext | None = None) -> None:
        host, port = upstream.rsplit(":", 1)
        self._upstream = (host, int(port))
        self._tls = tls
        self._writers: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._open: set[asyncio.Future[Any]] = set()
        self.connections = 0
        self.answered = 0
        self.most = 65536  # bytes that are passed on at once
        self._refusing = False
        self.on_answer: Callable[[int], None] = lambda total: None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.target = self._run(self._listen())

    def cut(self) -> None:
        """Break all connections, as a crash would."""
        self._run(self._cut())

    def cut_here(self) -> None:
        """The same, from `on_answer`: what has just arrived is lost too."""
        for down, up in self._writers:
            for writer in (down, up):
                writer.transport.abort()
        self._writers.clear()

    def stall(self) -> None:
        """Pass nothing on any more; connections stay open."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def resume(self) -> None:
        self._loop.call_soon_threadsafe(self._flowing.set)

    def hold(self) -> None:
        """Keep what the open connections send from now on; new connections flow."""
        self._run(self._hold())

    def release(self) -> None:
        """Pass on what was held, and wait for those connections to end at both sides."""
        self._run(self._release())

    def half_close(self) -> None:
        """Tell the server that the client sends no more."""
        self._run(self._half_close())

    def refuse(self, refused: bool = True) -> None:
        """Break every new connection at once."""
        self._refusing = refused

    def close(self) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def _run(self, awaitable: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(PATIENCE)

    async def _listen(self) -> str:
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _accept(self, reader: asyncio.StreamReader, down: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._refusing:
            down.transport.abort()
            return
        try:
            answers, up = await asyncio.open_connection(*self._upstream)
        except OSError:
            down.transport.abort()
            return
        self._writers.append((down, up))
        flowing = self._flowing
        passing = asyncio.gather(
            self._pump(reader, up, flowing, False), self._pump(answers, down, flowing, True)
        )
        self._open.add(passing)
        await passing
        self._open.discard(passing)
        for writer in (down, up):
            writer.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        flowing: asyncio.Event,
        answers: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(self.most):
                await flowing.wait()
                if answers:
                    self.answered += len(data)
                    self.on_answer(self.answered)
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            if writer.can_write_eof():
                writer.write_eof()

    async def _cut(self) -> None:
        self.cut_here()

    async def _hold(self) -> None:
        self._held, self._late = self._open.copy(), self._flowing
        self._late.clear()
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def _release(self) -> None:
        self._late.set()
        await asyncio.wait(self._held, timeout=PATIENCE)

    async def _half_close(self) -> None:
        for _, up in self._writers:
            up.write_eof()

    async def _close(self) -> None:
        self._flowing.set()
        self._server.close()
        self.cut_here()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(tasks, timeout=PATIENCE) if tasks else None

"""The HTTP port holds against those who hold connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from carousel.exposition import Answer, HttpServer, Request
from tests.processes import PATIENCE, until

ASKED = b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"


@contextmanager
def listening(*, host: str = "127.0.0.1", **given: Any) -> Iterator[HttpServer]:
    server = HttpServer(host, 0, {"/": lambda request: Answer(b"here\n")}, **given)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def connect(server: HttpServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def rest(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def ask(server: HttpServer, request: bytes = ASKED) -> bytes:
    with connect(server) as connection:
        connection.sendall(request)
        return rest(connection)


def test_who_drips_a_request_is_cut_off_when_its_time_is_over() -> None:
    with listening(head_seconds=0.3) as server, connect(server) as slow:
        slow.settimeout(0.03)  # each byte comes well before a wait for one byte would end
        for _ in range(300):
            try:
                slow.send(b"G")
                assert slow.recv(1) == b""
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            raise AssertionError("it is still listened to")
        assert ask(server).endswith(b"here\n")


def test_who_comes_when_all_are_being_answered_is_told_at_once_and_nobody_waits() -> None:
    ready, asked = threading.Event(), threading.Semaphore(0)

    def slow(request: Request) -> Answer:
        asked.release()
        ready.wait(PATIENCE)
        return Answer(b"at last\n")

    server = HttpServer("127.0.0.1", 0, {"/": slow}, connections=3)
    server.start()
    with ExitStack() as stack:
        stack.callback(server.stop)
        stack.callback(ready.set)
        before = threading.active_count()
        held = [stack.enter_context(connect(server)) for _ in range(3)]
        for one in held:
            one.sendall(ASKED)
        assert all(asked.acquire(timeout=PATIENCE) for _ in held)
        for _ in range(20):
            with connect(server) as refused:
                assert rest(refused).startswith(b"HTTP/1.0 503 ")
        assert threading.active_count() <= before + 3
        ready.set()
        assert all(rest(one).endswith(b"at last\n") for one in held)
        until(lambda: ask_or_break(server).endswith(b"at last\n"))  # the places are free again


def test_who_says_nothing_makes_room_for_who_asks() -> None:
    with listening(connections=3) as server, ExitStack() as stack:
        before = threading.active_count()
        silent = [stack.enter_context(connect(server)) for _ in range(20)]
        for one in silent[::2]:
            with suppress(OSError):  # it is cut off already
                one.sendall(b"GET / HT")
        for _ in range(20):
            assert ask(server).endswith(b"here\n")
        assert hung_up(silent[0])
        until(lambda: threading.active_count() <= before + 3)


def hung_up(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def ask_or_break(server: HttpServer) -> bytes:
    """The answer, or what came of it where the connection was refused while it still asked."""
    with connect(server) as connection:
        with suppress(ConnectionError):
            connection.sendall(ASKED)
        try:
            return rest(connection)
        except ConnectionError:
            return b""


def test_connections_that_come_together_wait_in_line() -> None:
    server = HttpServer("127.0.0.1", 0, {"/": lambda request: Answer(b"here\n")})
    with ExitStack() as stack:  # nothing is taken yet, so all of them stand in the line
        waiting = [stack.enter_context(connect(server)) for _ in range(60)]
        server.start()
        stack.callback(server.stop)
        for one in waiting:
            one.sendall(ASKED)
        assert all(rest(one).endswith(b"here\n") for one in waiting)


def named(host: str) -> bytes:
    return f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode()


def test_a_name_that_leads_to_loopback_reads_nothing() -> None:
    with listening() as server:
        for host in ("localhost:9465", "127.0.0.1", "[::1]:9465"):
            assert ask(server, named(host)).endswith(b"here\n"), host
        for host in ("evil.example", "127.0.0.1.evil.example:9465", "0.0.0.0", ""):
            assert b" 421 " in ask(server, named(host)).partition(b"\r\n")[0], host
        assert b" 421 " in ask(server, b"GET / HTTP/1.0\r\n\r\n")


def test_where_others_may_listen_any_name_is_good() -> None:
    with listening(host="0.0.0.0") as server:
        assert ask(server, named("carousel.internal:9464")).endswith(b"here\n")


def test_what_is_no_request_is_refused_in_plain_words() -> None:
    garbage = (
        (b"<script>\r\n\r\n", 400),
        (b"GET / HTTP/<b>\r\n\r\n", 400),
        (b"POST /\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET /" + b"x" * 65533, 414),
        (b"GET / HTTP/1.0\r\nLong: " + b"x" * 65531, 431),
    )
    with listening() as server:
        for request, code in garbage:
            head, _, body = ask(server, request).partition(b"\r\n\r\n")
            assert head.startswith(f"HTTP/1.0 {code} ".encode()), request[:30]
            assert b"Content-Type: text/plain" in head
            assert b"html" not in body.lower()

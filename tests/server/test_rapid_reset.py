"""Who takes calls back faster than they can be looked at is shut out, and nobody else notices."""

from __future__ import annotations

import fcntl
import json
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from ipaddress import ip_network
from pathlib import Path

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from carousel.server.resets import Guard, ShutOut, own_sockets, packet_filter, tally
from carousel.server.resets.guard import worst
from carousel.server.resets.metrics import ResetMetrics
from carousel.server.resets.networks import Network, network_of
from carousel.server.resets.tally import Streams, Tally, newest_server
from carousel.server.resets.witness import Witness
from tests.conftest import RunningServer, running
from tests.papers import Papers
from tests.processes import PATIENCE, until
from tests.server.contract import Wire
from tests.soak.hostile_callers import CANCEL, PREFACE, SETTINGS, STREAM, frame, headers

ELSEWHERE = "127.0.0.2"
STEP = headers("InferenceService/Step")


def taken_back(call: bytes, first: int = 1) -> bytes:
    return b"".join(
        frame(1, 4, stream, call) + frame(3, 0, stream, CANCEL)
        for stream in range(first, first + 1000, 2)
    )


TAKEN_BACK = taken_back(STREAM)


@pytest.fixture
def watchful(model_store: Path, tmp_path: Path) -> Iterator[RunningServer]:
    with running(
        store=model_store, max_resets=20, access_log=str(tmp_path / "access.log")
    ) as server:
        yield server


def connect(server: RunningServer, source: str, timeout: float = 5.0) -> socket.socket:
    port = server.server.port
    return socket.create_connection(("127.0.0.1", port), timeout, source_address=(source, 0))


def number(server: RunningServer, name: str) -> float:
    value = server.server.metrics.registry.get_sample_value(name)
    assert value is not None
    return value


def is_out(server: RunningServer) -> bool:
    return number(server, "carousel_networks_out") == 1


def attack(server: RunningServer) -> None:
    """Take calls back until that is noticed."""
    while not is_out(server):
        with suppress(OSError), connect(server, ELSEWHERE, 0.5) as connection:
            connection.sendall(PREFACE + SETTINGS + TAKEN_BACK)
            connection.settimeout(0.05)
            connection.recv(1)


def test_the_offender_is_cut_and_shut_out_and_others_go_on(
    watchful: RunningServer, tmp_path: Path
) -> None:
    with grpc.insecure_channel(watchful.target) as channel:
        wire = Wire(channel)
        session = wire.create("models/tiny")
        first = wire.outputs([session.handle], [0], np.zeros((1, 3), np.float32))
        quiet = connect(watchful, ELSEWHERE)  # has done nothing, and is of the same network
        attack(watchful)
        with closing(quiet):
            quiet.settimeout(PATIENCE)
            with suppress(ConnectionError):
                while quiet.recv(4096):
                    pass
        with pytest.raises(OSError):  # noqa: PT011  the system says nothing: it is not answered
            connect(watchful, ELSEWHERE, 0.2)
        wire.outputs([session.handle], [1], np.zeros((1, 3), np.float32))
        with grpc.insecure_channel(watchful.target) as another:
            again = Wire(another).create("models/tiny")
            outputs = wire.outputs([again.handle], [0], np.zeros((1, 3), np.float32))
            assert np.array_equal(first, outputs)
    assert number(watchful, "carousel_networks_shut_out_total") == 1
    assert number(watchful, "carousel_connections_cut_total") >= 1
    until(lambda: len(watchful.server.calls.flows) == 0)
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    (told,) = (line for line in lines if line["event"] == "shut_out")
    assert told["peer"] == "127.0.0.2/32"
    assert told["resets_per_second"] > 20


@pytest.fixture
def unwatched(model_store: Path) -> Iterator[RunningServer]:
    with running(store=model_store, max_resets="off") as server:
        yield server


@pytest.mark.parametrize("call", [STREAM, STEP], ids=["StreamSteps", "Step"])
def test_calls_that_are_taken_back_before_they_begin_are_counted(
    unwatched: RunningServer, call: bytes
) -> None:
    """Most of the time gRPC knows of it before the call is begun, and then it never is."""
    hot = unwatched.server.calls.hot
    with connect(unwatched, ELSEWHERE) as connection:
        connection.sendall(PREFACE + SETTINGS + taken_back(call))
        until(lambda: hot.lost + unwatched.server.calls.flows.lost > 400)
        assert hot.lost > 0


def test_who_takes_back_too_many_on_a_new_connection_is_out_after_a_look(
    unwatched: RunningServer,
) -> None:
    seen, lost, told = Tally(newest_server()), [0], list[ShutOut]()
    metrics = ResetMetrics(CollectorRegistry())
    about = (seen, unwatched.server.port, metrics, lambda: lost[0], Witness())
    guard = Guard(*about, most=20, seconds=30, tell=told.append)
    with connect(unwatched, ELSEWHERE) as connection:
        connection.sendall(PREFACE + SETTINGS + TAKEN_BACK)

        def unanswered() -> int:
            return sum(one.unanswered for one in seen.streams(seen.connections()).values())

        until(lambda: unanswered() > 400)
        for _ in range(2):  # the first asks the witness, who saw nothing
            lost[0] += 1000
            guard.look(time.monotonic())
    (event,) = told
    assert event.network == network_of(ELSEWHERE)
    assert event.connections == 1


@pytest.mark.parametrize("call", [STREAM, STEP], ids=["StreamSteps", "Step"])
def test_a_witness_knows_who_it_was_without_grpc(unwatched: RunningServer, call: bytes) -> None:
    class Silent(Tally):
        def streams(self, numbers: Iterable[int]) -> dict[int, Streams]:
            raise AssertionError("gRPC was asked")

    hot, flows, told = unwatched.server.calls.hot, unwatched.server.calls.flows, list[ShutOut]()
    metrics = ResetMetrics(CollectorRegistry())
    about = (Silent(newest_server()), unwatched.server.port, metrics)

    def counted() -> int:
        return hot.lost + flows.lost

    guard = Guard(*about, counted, hot.witness, most=20, seconds=30, tell=told.append)
    with connect(unwatched, ELSEWHERE) as connection:
        connection.sendall(PREFACE + SETTINGS + taken_back(call))
        until(lambda: counted() > 400)
        guard.look(time.monotonic())
        connection.sendall(taken_back(call, 1001))
        until(lambda: counted() > 900)
        guard.look(time.monotonic())
    (event,) = told
    assert event.network == network_of(ELSEWHERE)


def test_a_look_at_connections_that_answer_late_ends_in_time(
    unwatched: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(unwatched, ELSEWHERE) as one, connect(unwatched, ELSEWHERE) as other:
        for connection in (one, other):
            connection.sendall(PREFACE + SETTINGS)
        seen = Tally(newest_server())
        until(lambda: len(seen.connections()) == 2)
        first, second = seen.connections()
        assert list(seen.connections(after=first)) == [second]
        monkeypatch.setattr(tally, "LOOK_AT_MOST", -1.0)
        assert list(seen.streams([first, second])) == [first]


def test_to_look_for_sockets_leaves_the_locks_of_files_alone(tmp_path: Path) -> None:
    """SQLite's too: a descriptor that is closed takes all locks of its process on the file."""
    with (tmp_path / "locked").open("w") as file, socket.create_server(("127.0.0.1", 0)) as port:
        fcntl.lockf(file, fcntl.LOCK_EX)
        for listener in own_sockets.listeners(port.getsockname()[1]):
            listener.close()
        try_it = (
            "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        )
        tried = subprocess.run([sys.executable, "-c", try_it, file.name], capture_output=True)
    assert b"BlockingIOError" in tried.stderr


def test_tls_hides_nothing_from_it(model_store: Path, papers: Papers) -> None:
    with running(store=model_store, max_resets=20, **papers.serving()) as server:
        context = ssl.create_default_context(cafile=str(papers.cert("ca")))
        context.set_alpn_protocols(["h2"])
        while not is_out(server):
            with (
                suppress(OSError),
                connect(server, ELSEWHERE, 0.5) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as connection,
            ):
                connection.sendall(PREFACE + SETTINGS + TAKEN_BACK)
                connection.recv(1)


def test_after_a_while_it_may_come_back(model_store: Path) -> None:
    with running(store=model_store, max_resets=20, shut_out=0.3) as server:
        attack(server)
        until(lambda: not is_out(server))

        def answers() -> bool:
            with suppress(OSError), connect(server, ELSEWHERE, 0.5) as connection:
                connection.sendall(PREFACE + SETTINGS)
                return connection.recv(1) != b""
            return False

        until(answers)


def test_who_lets_calls_be_answered_is_not_blamed() -> None:
    one, other = network_of("10.0.0.1"), network_of("10.0.0.2")
    before = {1: Streams(one, 900, 5000), 2: Streams(other, 0, 0)}
    after = {1: Streams(one, 1900, 5999), 2: Streams(other, 3, 11), 3: Streams(other, 0, 7)}
    assert worst(before, after) == (other, 18)
    assert worst(after, after) == (None, 0)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.1.2.3/32"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ],
)
def test_a_network_is_what_one_customer_has(address: str, network: str) -> None:
    assert network_of(address) == ip_network(network)


@pytest.mark.parametrize(
    ("family", "host", "own", "others"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1", ["127.0.0.2", "2001:db8::1", "127.0.0.3"]),
        (socket.AF_INET6, "::1", "::1", ["127.0.0.1", "2001:db8::1", "0:0:0:1::1"]),
        (socket.AF_INET6, "::", "::1", ["2001:db8::1"]),
    ],
)
def test_a_filter_drops_one_network_and_lets_all_others_in(
    family: socket.AddressFamily, host: str, own: str, others: list[str]
) -> None:
    with socket.socket(family) as listener:
        try:
            listener.bind((host, 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        listener.listen()
        address = (own, listener.getsockname()[1])

        def comes_in() -> bool:
            with socket.socket(family) as one:
                one.settimeout(0.2)
                with suppress(TimeoutError):
                    one.connect(address)
                    return True
            return False

        packet_filter.shut_out(listener, [network_of(other) for other in others])
        assert comes_in()
        packet_filter.shut_out(listener, [network_of(other) for other in [*others, own]])
        assert not comes_in()
        packet_filter.shut_out(listener, [])
        assert comes_in()


def test_a_guard_that_can_not_look_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    looks = []

    class Gone(Tally):
        def connections(self, after: int = 0) -> dict[int, Network]:
            looks.append(after)
            raise ValueError("no such server")

    guard = Guard(Gone(0), 0, ResetMetrics(CollectorRegistry()), int, Witness(), most=1, seconds=1)
    guard.start()
    until(lambda: len(looks) > 2)
    guard.stop()
    assert [record.name for record in caplog.records] == ["carousel.resets"]


def test_a_witness_forgets_what_it_told() -> None:
    witness = Witness()
    assert not witness.stop()
    witness.start()
    honest = [witness.came("ipv4:10.0.0.1:4000") for _ in range(3)]
    for tell in [witness.came("ipv6:%5B::1%5D:4000"), honest[0]]:
        tell()
    witness.came("unix:")()
    seen = {one.network: (one.answered, one.unanswered) for one in witness.stop().values()}
    assert seen == {network_of("10.0.0.1"): (2, 1), network_of("::1"): (0, 1)}
    honest[1]()
    assert not witness.stop()

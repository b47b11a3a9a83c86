"""The exporter: the same as the servers say, whoever of them is there."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from carousel import exposition
from carousel.client import TLS, Client
from carousel.exporter import Exporter, Targets, certificate
from carousel.exposition import Certificate
from carousel.v1 import admin_service_pb2 as pb
from carousel.v1 import admin_service_pb2_grpc
from tests.client.relay import Relay
from tests.conftest import RunningServer
from tests.exporter.scrape import OPENMETRICS, Samples, families, samples
from tests.papers import Papers
from tests.processes import until


@contextmanager
def exporting(targets: Targets, timeout: float = 10.0) -> Iterator[Exporter]:
    exporter = Exporter(targets, timeout=timeout)
    try:
        yield exporter
    finally:
        exporter.close()


def steady(found: Samples) -> Samples:
    """Without what changes by looking, and without what is the exporter's own."""
    return {
        (name, labels): value
        for (name, labels), value in found.items()
        if not name.startswith(("carousel_device_", "carousel_exporter_"))
        and ("grpc_method", "GetStatistics") not in labels
    }


def without_target(found: Samples, target: str) -> Samples:
    assert all(("target", target) in labels for _, labels in found)
    return {
        (name, tuple(label for label in labels if label[0] != "target")): value
        for (name, labels), value in found.items()
    }


def test_statistics_the_server_s_page_and_the_exporter_say_the_same(server: RunningServer) -> None:
    own = f"http://localhost:{server.server.http_port}"
    with grpc.insecure_channel(server.target) as channel:
        stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        message = stub.GetStatistics(pb.GetStatisticsRequest())
    told = steady(samples(exposition.families(message)))
    with exporting(Targets([server.target])) as exporter:
        port = exposition.HttpServer("localhost", 0, exposition.routes(exporter.read, lambda: True))
        port.start()
        try:
            for accept in ("", OPENMETRICS):
                assert steady(samples(families(own, accept=accept))) == told
                exported = samples(families(f"http://localhost:{port.port}", accept=accept))
                assert without_target(steady(exported), server.target) == told
        finally:
            port.stop()
    with Client(server.target) as client:
        statistics = client.statistics()
    assert {
        (one.name, tuple(sorted(one.labels.items())))
        for family in statistics.families
        for one in family.samples
    } >= told.keys()


def value(found: Samples, name: str, **labels: str) -> float:
    return found[f"carousel_exporter_{name}", tuple(sorted(labels.items()))]


def test_a_target_that_is_down_leaves_the_others_alone(server: RunningServer) -> None:
    nobody = "localhost:1"
    with exporting(Targets([server.target, nobody])) as exporter:
        for scrape in (1, 2):
            found = samples(exporter.read())
            assert value(found, "up", target=server.target) == 1
            assert value(found, "up", target=nobody) == 0
            assert value(found, "scrape_errors_total", target=server.target) == 0
            assert value(found, "scrape_errors_total", target=nobody) == scrape
            assert value(found, "scrape_seconds", target=server.target) > 0
            ready = {"model": "tiny", "version": "1", "target": server.target}
            assert found["carousel_model_ready", tuple(sorted(ready.items()))] == 1
        assert not [
            labels
            for name, labels in found
            if ("target", nobody) in labels and not name.startswith("carousel_exporter_")
        ]


def test_a_target_that_never_answers_is_waited_for_no_longer_than_prometheus_waits(
    server: RunningServer,
) -> None:
    with socket.create_server(("localhost", 0)) as silent:
        target = f"localhost:{silent.getsockname()[1]}"
        with exporting(Targets([server.target, target]), timeout=3600) as exporter:
            found = samples(exporter.read(2.0))
            assert value(found, "up", target=target) == 0
            assert value(found, "up", target=server.target) == 1


def test_a_target_that_comes_back_is_read_again(serve: Callable[..., RunningServer]) -> None:
    first = serve(shipped=False, load="tiny")
    target, port = first.target, first.server.port
    with exporting(Targets([target])) as exporter:
        assert value(samples(exporter.read()), "up", target=target) == 1
        first.stop()
        assert value(samples(exporter.read()), "up", target=target) == 0
        serve(shipped=False, load="tiny", port=port)
        until(lambda: value(samples(exporter.read()), "up", target=target) == 1)


def test_a_name_stands_for_all_addresses_that_it_has_at_the_time(
    serve: Callable[..., RunningServer],
) -> None:
    one = serve(host="127.0.0.1", shipped=False, load="tiny")
    port = one.server.port
    serve(host="127.0.0.2", port=port, shipped=False, load="letters")
    known: list[str] = []

    def lookup(host: str, number: int) -> list[str]:
        assert (host, number) == ("carousel.test", port)
        if not known:
            raise socket.gaierror("there is no such name")
        return known

    targets = Targets([f"dns:carousel.test:{port}"], lookup=lookup)
    with exporting(targets) as exporter:
        lost = samples(exporter.read())
        assert value(lost, "up", target=f"carousel.test:{port}") == 0
        known += ["127.0.0.1", "127.0.0.2"]
        both = samples(exporter.read())
        assert _up(both) == {f"127.0.0.1:{port}": 1, f"127.0.0.2:{port}": 1}
        models = {dict(labels)["model"] for name, labels in both if name == "carousel_model_ready"}
        assert models == {"tiny", "letters"}
        known.remove("127.0.0.1")
        assert _up(samples(exporter.read())) == {f"127.0.0.2:{port}": 1}
        known.clear()  # it can't be looked up: what was known is good for longer
        assert _up(samples(exporter.read())) == {f"127.0.0.2:{port}": 1}


def _up(found: Samples) -> dict[str, float]:
    return {
        dict(labels)["target"]: number
        for (name, labels), number in found.items()
        if name == "carousel_exporter_up"
    }


def test_every_address_of_a_name_is_found_by_the_system_s_resolver(server: RunningServer) -> None:
    port = server.server.port
    with exporting(Targets([f"dns:///127.0.0.1:{port}"])) as exporter:
        assert _up(samples(exporter.read())) == {f"127.0.0.1:{port}": 1}


def test_servers_are_asked_over_tls_like_by_any_client(
    server: RunningServer, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=test"
    )
    files = ["-keyout", str(key), "-out", str(certificate)]
    names = ["-addext", "subjectAltName=DNS:carousel.test,IP:127.0.0.1"]
    subprocess.run([*make.split(), *files, *names], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    relay = Relay(server.target, tls=context)
    port = relay.target.rpartition(":")[2]
    try:
        tls = TLS(ca=certificate)
        fixed = Targets([f"127.0.0.1:{port}"], tls=tls, token="secret")
        named = Targets(
            [f"dns:carousel.test:{port}"], tls=tls, lookup=lambda host, port: ["127.0.0.1"]
        )
        for targets in (fixed, named):
            with exporting(targets) as exporter:
                assert _up(samples(exporter.read())) == {f"127.0.0.1:{port}": 1}
        with exporting(Targets([f"127.0.0.1:{port}"], tls=TLS())) as exporter:
            assert _up(samples(exporter.read())) == {f"127.0.0.1:{port}": 0}
    finally:
        relay.close()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["carousel"], "host:port or dns:host:port, got 'carousel'"),
        (["dns:carousel"], "host:port or dns:host:port, got 'carousel'"),
        (["carousel:70000"], "got 'carousel:70000'"),
        ([], "one or more"),
        (["10.0.0.1:50051"], "a token needs TLS unless the server is local"),
        (["dns:carousel.test:50051"], "a token needs TLS unless the server is local"),
    ],
)
def test_targets_are_checked_when_it_starts(targets: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Targets(targets, token="secret")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_it_listens_on_loopback_and_elsewhere_with_certificates_or_when_told(
    host: str, papers: Papers
) -> None:
    def shown(host: str, *, mutual: bool = False, **more: Any) -> Certificate | None:
        given: dict[str, Any] = {"cert": papers.cert("server"), "key": papers.key("server")}
        given |= {"client_ca": papers.cert("ca") if mutual else None, "insecure": False}
        return certificate(host, **given | more)

    plain: dict[str, Any] = {"cert": None, "key": None}
    assert shown(host, **plain) is None
    assert shown("0.0.0.0", **plain, insecure=True) is None
    for public in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        assert shown(public, mutual=True) is not None
        for less in (plain, dict[str, Any]()):
            with pytest.raises(ValueError, match="unless the flag --insecure is given"):
                shown(public, **less)


def test_families_of_several_servers_become_one_each() -> None:
    def message(kind: pb.MetricType.ValueType, number: float) -> pb.Statistics:
        sample = pb.MetricSample(name="carousel_x_total", value=number)
        family = pb.MetricFamily(name="carousel_x", help="X.", type=kind, samples=[sample])
        return pb.Statistics(families=[family])

    counter, gauge = pb.METRIC_TYPE_COUNTER, pb.METRIC_TYPE_GAUGE
    groups = [
        exposition.families(message(kind, number), target=target)
        for kind, number, target in ((counter, 1, "a"), (counter, 2, "b"), (gauge, 3, "c"))
    ]
    [family] = exposition.merge(groups)
    assert [(one.labels, one.value) for one in family.samples] == [
        ({"target": "a"}, 1),
        ({"target": "b"}, 2),
    ]

"""Front ends come, go and come back; the server is one, and has its port alone."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import pytest

from carousel.client import Client
from carousel.errors import PermissionDenied, ServerDraining, SessionNotFound, Unauthenticated
from carousel.server.access import key_file
from carousel.server.app import StartError
from carousel.server.frontends import supervisor
from carousel.v1 import inference_service_pb2 as pb
from tests.conftest import RunningServer
from tests.papers import Papers
from tests.processes import ServerProcess, until
from tests.server.contract import Wire, error_of
from tests.server.frontends.doors import Doors
from tests.server.frontends.test_calls import INPUTS, messages


def lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def children(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    found = [int(child) for one in threads for child in (one / "children").read_text().split()]
    return [pid for pid in found if b"carousel.server.frontends" in command_of(pid)]


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def restarts(server: RunningServer) -> float:
    registry = server.server.metrics.registry
    return registry.get_sample_value("carousel_frontend_restarts_total") or 0.0


def test_a_front_end_that_is_killed_loses_its_connections_alone_and_comes_back(
    server: RunningServer, doors: Doors
) -> None:
    before = restarts(server)
    victim, survivor = doors.pids
    dying, living = Wire(doors.to(victim)), Wire(doors.to(survivor))
    lost, kept = dying.create(), living.create()
    open_stream = dying.inference.StreamSteps(waiting_for_ever(lost.handle))
    assert not next(open_stream).step.errors
    other_stream = living.inference.StreamSteps(iter(messages(kept.handle, [0, 1, 2])))
    assert not next(other_stream).step.errors
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as failure:
        list(open_stream)
    assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
    assert not [error for response in other_stream for error in response.step.errors]
    living.outputs([lost.handle], [1], INPUTS[1:2])  # its session is where it was
    until(lambda: victim not in doors.pids)
    [born] = set(doors.pids) - {survivor}
    Wire(doors.to(born)).outputs([lost.handle], [2], INPUTS[2:3])
    assert restarts(server) == before + 1


def test_a_front_end_that_hangs_is_replaced(
    serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "SILENT_LOOKS", 2)
    server = serve(frontends=2, shipped=False)
    with Doors(server) as doors:
        hanging, living = doors.pids
        kept = Wire(doors.to(living))
        handle = kept.create().handle
        os.kill(hanging, signal.SIGSTOP)
        until(lambda: not lives(hanging))
        until(lambda: len(set(doors.pids) - {hanging}) == 2)
        kept.outputs([handle], [0], INPUTS[:1])
        assert living in doors.pids


def waiting_for_ever(handle: int) -> Iterator[pb.StreamStepsRequest]:
    yield from messages(handle, [0])
    threading.Event().wait()


def test_a_front_end_that_hangs_does_not_hold_up_a_drain(
    serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "SILENT_LOOKS", 2)
    server = serve(frontends=1, shipped=False, drain_timeout=600)
    with Doors(server) as doors:
        [hanging] = doors.pids
        os.kill(hanging, signal.SIGSTOP)
        server.loop.call_soon_threadsafe(server.server.drain)
        server.join()
        assert not lives(hanging)


def test_no_process_of_the_server_takes_modules_from_the_folder_of_its_start(
    serve: Callable[..., RunningServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secrets.py").write_text("raise SystemExit('a stranger was asked')")
    monkeypatch.chdir(tmp_path)
    archive = io.BytesIO()
    np.savez(archive, x=np.zeros((4, 8, 3), np.float32))
    server = serve(frontends=1, shipped=False)
    with Client(server.target) as client:
        client.session("tiny").step(INPUTS[0])
        # An archive is read by a process of its own.
        client.datasets.upload(archive.getvalue(), id="archive", format="npz")


@pytest.mark.parametrize("front_ends", [0, 1])
def test_a_second_server_does_not_get_the_port(
    server: RunningServer, serve: Callable[..., RunningServer], front_ends: int
) -> None:
    with pytest.raises(StartError, match="the port is in use"):
        serve(port=server.server.port, frontends=front_ends, load=["tiny"], shipped=False)


def test_front_ends_do_not_get_the_port_of_another_server(
    serve: Callable[..., RunningServer],
) -> None:
    first = serve(shipped=False)
    with pytest.raises(StartError, match="the port is in use"):
        serve(port=first.server.port, frontends=1, load=["tiny"], shipped=False)


def test_a_drain_tells_the_streams_of_every_front_end(
    serve: Callable[..., RunningServer],
) -> None:
    server = serve(frontends=2, shipped=False, drain_timeout=20)
    with Doors(server) as doors:
        pids = doors.pids
        streams = []
        for pid in pids:
            wire = Wire(doors.to(pid))
            stream = wire.inference.StreamSteps(waiting_for_ever(wire.create().handle))
            assert not next(stream).step.errors
            streams.append(stream)
        server.loop.call_soon_threadsafe(lambda: server.server.drain(successor="there:1"))
        for stream in streams:
            with pytest.raises(grpc.RpcError) as failure:
                list(stream)
            error = error_of(failure.value)
            assert isinstance(error, ServerDraining)
            assert error.metadata == {"successor": "there:1"}
        server.join()
        assert not any(map(lives, pids))


def test_front_ends_end_with_their_server_however_it_ends(
    model_store: Path, tmp_path: Path
) -> None:
    with ServerProcess(tmp_path, store=model_store, load="tiny", frontends=2) as server:
        with Client(server.target) as client:
            client.session("tiny").step(INPUTS[0])
        pids = children(server.pid)
        assert len(pids) == 2
        server.kill()
        until(lambda: not any(map(lives, pids)))
        server.start()  # at the same port
        pids = children(server.pid)
        for pid in pids:
            os.kill(pid, signal.SIGTERM)  # as a service manager tells all processes at once
        assert server.terminate() == 0
        assert not any(map(lives, pids))


def test_credentials_certificates_tenants_and_the_access_log_are_as_without_front_ends(
    serve: Callable[..., RunningServer], papers: Papers, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.jsonl"
    now = datetime.now(UTC)
    key, secret = key_file.create(keys, now=now, tenant="shop", scopes=["infer", "sessions"])
    _, foreign = key_file.create(keys, now=now, tenant="bank", scopes=["infer", "sessions"])
    server = serve(frontends=2, shipped=False, api_keys=keys, **papers.serving())
    log = server.settings.data_folder / "access.log"

    def lines() -> list[dict[str, object]]:
        return [json.loads(line) for line in log.read_text().splitlines()]

    def client(token: str | None) -> Client:
        return Client(server.target, token=token, tls=papers.calling())

    with client(secret) as mine, client(foreign) as theirs:
        session = mine.session("tiny", session_id="mine")
        for x in INPUTS[:3]:
            session.step(x)
        with pytest.raises(SessionNotFound):
            theirs.attach("mine")
        with pytest.raises(PermissionDenied):
            mine.set_alias("tiny", alias="stable", version=1)
    with client("wrong") as nobody, pytest.raises(Unauthenticated):
        nobody.session("tiny", session_id="theirs")
    with client(None) as nobody, pytest.raises(Unauthenticated):
        nobody.session("tiny")
    until(lambda: len(lines()) >= 5)
    made = next(line for line in lines() if str(line["method"]).endswith("/CreateSession"))
    assert (made["caller"], made["tenant"], made["status"]) == (f"key/{key.id}", "shop", "OK")
    assert {line["reason"] for line in lines()} >= {"UNAUTHENTICATED", "PERMISSION_DENIED"}

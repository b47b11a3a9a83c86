"""Who did what to which resource stands in the access log, with what came of it, and no secret."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from carousel.client import AsyncClient, Client
from carousel.errors import CarouselError, SessionNotFound
from carousel.server.app import StartError
from carousel.v1 import session_service_pb2 as pb
from carousel.v1 import session_service_pb2_grpc
from tests.conftest import RunningServer
from tests.papers import Papers
from tests.processes import PATIENCE, until

Line = dict[str, Any]
FIELDS = {
    "time", "event", "caller", "tenant", "method", "resources", "peer", "request_id", "status",
    "reason", "duration_ms",
}  # fmt: skip


class Log:
    """The lines of a server's file; `of` waits until so many of a method have come."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[Line]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def of(self, method: str, count: int = 1) -> list[Line]:
        found: list[Line] = []

        def there() -> bool:
            found[:] = [one for one in self.lines() if one["method"].endswith(f"/{method}")]
            return len(found) >= count

        until(there)
        assert len(found) == count
        return found


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "access.log")


@pytest.fixture
def logging_server(serve: Callable[..., RunningServer], log: Log) -> RunningServer:
    return serve(shipped=False, access_log=log.path)


def test_a_call_is_a_line_with_everything_that_is_asked_of_it(
    logging_server: RunningServer, log: Log
) -> None:
    before = datetime.now(UTC)
    with grpc.insecure_channel(logging_server.target) as channel:
        sessions = session_service_pb2_grpc.SessionServiceStub(channel)
        session = sessions.CreateSession(
            pb.CreateSessionRequest(model="models/tiny", session_id="mine"),
            metadata=(("x-request-id", "asked-by-me"), ("x-carousel-tenant", "acme")),
        )
    [line] = log.of("CreateSession")
    assert line.keys() == FIELDS
    assert line["event"] == "call"
    assert line["method"] == "carousel.v1.SessionService/CreateSession"
    assert line["resources"] == {
        "model": "models/tiny", "session_id": "mine", "result": session.name
    }  # fmt: skip
    assert (line["status"], line["reason"]) == ("OK", "")
    assert line["request_id"] == "asked-by-me"
    assert line["peer"].startswith(("ipv4:127.0.0.1:", "ipv6:"))
    assert (line["caller"], line["tenant"]) == ("anyone", "acme")
    assert before.timestamp() - 1 < datetime.fromisoformat(line["time"]).timestamp()
    assert line["time"].endswith("Z")
    assert 0 < line["duration_ms"] < 30_000


def use(client: Client) -> None:
    with client.session("tiny", session_id="one") as session:
        session.step(np.ones(3))
        session.fork(2)
        exported = session.export()
    with pytest.raises(SessionNotFound):
        client.attach("nobody")
    client.import_session(exported, session_id="two").close()
    assert list(client.list_models())


async def use_async(client: AsyncClient) -> None:
    async with await client.session("tiny", session_id="one") as session:
        await session.step(np.ones(3))
        await session.fork(2)
        exported = await session.export()
    with pytest.raises(SessionNotFound):
        await client.attach("nobody")
    await (await client.import_session(exported, session_id="two")).close()
    assert [one async for one in client.list_models()]


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_both_clients_leave_their_traces_and_steps_none(
    kind: str, logging_server: RunningServer, log: Log
) -> None:
    if kind == "Client":
        with Client(logging_server.target) as client:
            use(client)
    else:

        async def main() -> None:
            async with AsyncClient(logging_server.target) as client:
                await use_async(client)

        asyncio.run(main())
    log.of("DeleteSession", 2)
    logging_server.stop()
    done = [
        (one["method"].rpartition("/")[2], one["status"], one["reason"])
        for one in log.lines()
        if one["event"] == "call"
    ]
    assert done == [
        ("CreateSession", "OK", ""),
        ("ForkSession", "OK", ""),
        ("ExportSession", "OK", ""),
        ("DeleteSession", "OK", ""),
        ("AttachSession", "NOT_FOUND", "SESSION_NOT_FOUND"),
        ("ImportSession", "OK", ""),
        ("DeleteSession", "OK", ""),
    ]
    [fork] = log.of("ForkSession")
    assert fork["resources"]["name"] == "sessions/one"
    assert len(fork["resources"]["results"]) == 2
    [refused] = log.of("AttachSession")
    assert refused["resources"] == {"name": "sessions/nobody"}


def test_a_stream_is_two_lines_with_its_counts(
    logging_server: RunningServer, log: Log, tmp_path: Path
) -> None:
    file = tmp_path / "some.txt"
    file.write_text("to be or not to be " * 200)
    with Client(logging_server.target) as client:
        uploaded = client.datasets.upload(file)
    opened, closed = log.of("UploadDataset", 2)
    assert (opened["event"], closed["event"]) == ("open", "close")
    assert closed["status"] == "OK"
    assert closed["received"] >= 2  # the header and what came
    assert closed["resources"]["result"] == uploaded.name
    assert opened["request_id"] == closed["request_id"]


def test_what_never_parsed_and_what_broke_off_is_recorded_too(
    logging_server: RunningServer, log: Log
) -> None:
    with grpc.insecure_channel(logging_server.target) as channel:
        broken: Any = channel.unary_unary("/carousel.v1.SessionService/ForkSession")
        with pytest.raises(grpc.RpcError):
            broken(b"\xff\xff")
        stream: Any = channel.stream_stream("/carousel.v1.InferenceService/StreamSteps")
        ended = threading.Event()
        call = stream(nothing_until(ended))
        log.of("StreamSteps")
        call.cancel()
        ended.set()
    [line] = log.of("ForkSession")
    assert (line["status"], line["reason"]) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    opened, closed = log.of("StreamSteps", 2)
    assert (opened["event"], closed["event"], closed["status"]) == ("open", "close", "CANCELLED")


def nothing_until(ended: threading.Event) -> Iterator[bytes]:
    """A stream of requests that never come."""
    ended.wait(PATIENCE)
    yield from ()


def test_contents_and_handles_are_in_no_line(logging_server: RunningServer, log: Log) -> None:
    with (
        Client(logging_server.target, token="the-token") as client,
        client.session("tiny", session_id="mine") as session,
    ):
        session.step(np.ones(3))
        handle = session.handle
        session.reset()
    log.of("DeleteSession")
    text = log.path.read_text()
    assert str(handle) not in text
    assert "the-token" not in text


def test_it_is_on_where_callers_have_credentials_and_off_elsewhere_and_when_told(
    serve: Callable[..., RunningServer], tmp_path: Path, papers: Papers
) -> None:
    def made(data: Path, **more: Any) -> bool:
        serve(shipped=False, data=data, **more).stop()
        return (data / "access.log").exists()

    assert not made(tmp_path / "open")
    assert made(tmp_path / "mutual", **papers.serving(mutual=True))
    assert not made(tmp_path / "told", **papers.serving(mutual=True), access_log="off")


def test_a_server_that_can_not_write_it_does_not_start(
    serve: Callable[..., RunningServer], tmp_path: Path
) -> None:
    with pytest.raises(StartError, match="access_log: "):
        serve(shipped=False, access_log=tmp_path)


def test_serving_goes_on_where_the_file_takes_nothing(
    serve: Callable[..., RunningServer],
) -> None:
    """/dev/full is a disk that is full."""
    server = serve(shipped=False, access_log="/dev/full")
    with Client(server.target) as client:
        client.session("tiny").close()
    registry = server.server.metrics.registry
    name = "carousel_access_log_lost_total"
    until(lambda: (registry.get_sample_value(name, {"reason": "file"}) or 0) == 2)
    with Client(server.target) as client, pytest.raises(CarouselError):
        client.attach("nobody")

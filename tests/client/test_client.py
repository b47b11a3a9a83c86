"""The client itself: names, errors, deadlines, credentials, events, waiting, closing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest

from carousel import errors
from carousel.client import TLS, AsyncClient, Client, Event
from carousel.client._names import model_name, session_name
from tests.client.relay import Relay
from tests.conftest import RunningServer
from tests.processes import PATIENCE


def test_names_are_accepted_as_people_write_them() -> None:
    assert model_name("king-james") == "models/king-james"
    assert model_name("king-james@stable") == "models/king-james/aliases/stable"
    assert model_name("king-james/2") == "models/king-james/versions/2"
    assert model_name("models/king-james/versions/2") == "models/king-james/versions/2"
    assert session_name("abc") == session_name("sessions/abc") == "sessions/abc"
    for bad in ("", "a/b", "a@", "@b", "a/1/2"):
        with pytest.raises(errors.InvalidField):
            model_name(bad)


def test_nobody_at_home_is_unreachable() -> None:
    with Client("localhost:1", timeout=PATIENCE) as client:
        with pytest.raises(errors.ServerUnreachable):
            client.server_info()
        with pytest.raises(errors.ServerUnreachable):
            client.wait_ready(timeout=0.2)

    async def main() -> None:
        async with AsyncClient("localhost:1", timeout=PATIENCE) as client:
            with pytest.raises(errors.ServerUnreachable):
                await client.session("tiny")

    asyncio.run(main())


def test_every_call_has_a_deadline(relay: Relay) -> None:
    with Client(relay.target, timeout=0.2) as client:
        client.wait_ready()
        relay.stall()
        with pytest.raises(errors.DeadlineExceeded):
            client.server_info()
        with pytest.raises(errors.DeadlineExceeded):
            list(client.list_models(timeout=0.05))


def test_a_lost_answer_to_create_leaves_one_session(relay: Relay, server: RunningServer) -> None:
    with Client(relay.target, timeout=PATIENCE) as client:
        client.wait_ready()
        before = {info.name for info in client.list_sessions()}

        def cut(total: int) -> None:
            relay.on_answer = lambda total: None
            relay.cut_here()

        relay.on_answer = cut
        with client.session("tiny") as session:
            made = {info.name for info in client.list_sessions()} - before
            assert made == {session.name}
            session.step([1, 2, 3])


def test_errors_carry_their_details(client: Client) -> None:
    with pytest.raises(errors.InvalidField) as caught:
        client.session("tiny", rewind_depth=1000)
    assert caught.value.field == "rewind_depth"
    assert "1000" in caught.value.message
    with pytest.raises(errors.SessionNotFound):
        client.attach("nobody")
    with pytest.raises(errors.ModelNotStepwise):
        client.session("both-ways")


def test_a_message_that_is_too_large_leaves_the_session_usable(client: Client) -> None:
    with client.session("tiny") as session:
        with pytest.raises(errors.MessageTooLarge):
            session.chunk(np.zeros((6_000_000, 3)))
        assert not session.unsettled
        session.step([1, 2, 3])
    with pytest.raises(errors.MessageTooLarge):
        client.predict("tiny", [np.zeros((6_000_000, 3))])


def test_errors_without_details_are_told_by_their_code() -> None:
    def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "a proxy says no")

    with futures.ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        method: Any = grpc.unary_unary_rpc_method_handler(refuse)
        handler = grpc.method_handlers_generic_handler(
            "carousel.v1.AdminService", {"GetServerInfo": method}
        )
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("localhost:0")
        server.start()
        try:
            with Client(f"localhost:{port}", timeout=PATIENCE) as client:
                with pytest.raises(errors.FailedPrecondition, match="a proxy says no"):
                    client.server_info()
                with pytest.raises(errors.Unimplemented):
                    client.get_model("tiny")
        finally:
            server.stop(None).wait()


def test_tokens_never_travel_in_the_clear() -> None:
    for target in (
        "example.com:50051",
        "10.0.0.1:50051",
        "localhost.example.com:1",
        "127.example.com:1",
    ):
        with pytest.raises(ValueError, match="TLS"):
            Client(target, token="secret")
    for target in ("localhost:50051", "127.0.0.1:50051", "[::1]:50051", "unix:/tmp/carousel"):
        Client(target, token="secret").close()
    with pytest.raises(ValueError, match="both cert and key"):
        TLS(cert="cert.pem")


def test_a_token_never_shows_in_messages() -> None:
    with pytest.raises(ValueError, match="printable characters") as refused:
        Client("localhost:1", token="se cret")
    assert "cret" not in str(refused.value)


def test_a_token_reaches_a_local_server(server: RunningServer) -> None:
    with Client(server.target, token="secret", timeout=PATIENCE) as client:
        assert client.server_info().version


def test_the_server_tells_about_itself(client: Client) -> None:
    info = client.wait_ready(timeout=PATIENCE)
    assert "models/tiny/versions/1" in info.ready_versions
    assert info.shards == 1
    statistics = client.statistics()
    assert [f.name for f in statistics.families] == sorted(f.name for f in statistics.families)
    assert statistics.value("carousel_nothing") == 0


def test_a_closed_client_says_so(server: RunningServer) -> None:
    client = Client(server.target)
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.server_info()

    async def main() -> None:
        client = AsyncClient(server.target)
        session = await client.session("tiny")
        waiting = asyncio.create_task(session.step([1, 2, 3]))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(errors.Cancelled):
            await waiting
        with pytest.raises(RuntimeError, match="closed"):
            await session.step([1, 2, 3])

    asyncio.run(main())


def test_a_drained_server_takes_nothing_new(serve: Callable[..., RunningServer]) -> None:
    events: list[Event] = []
    server = serve()
    with Client(server.target, timeout=PATIENCE, on_event=events.append) as client:
        client.session("tiny").step([1, 2, 3])
        client.drain(grace=5)
        with pytest.raises(errors.Unavailable):
            client.session("tiny")
        server.join()
        with pytest.raises(errors.ServerUnreachable):
            client.server_info()
    assert [event.kind for event in events][:2] == ["connected", "session_created"]
    assert events[-1].kind == "disconnected"

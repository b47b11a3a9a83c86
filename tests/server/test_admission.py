"""Admission: who is refused when much waits, and what they are told; through the real server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from carousel import tensors
from carousel.client import AsyncClient, AsyncSession, Client
from carousel.client._priority import Priority
from carousel.errors import InvalidField, QueueFull
from carousel.server.call_queue import CallQueue
from carousel.server.door import Door
from carousel.v1 import inference_service_pb2 as pb
from tests.client.conftest import assert_close
from tests.client.conftest import until as eventually
from tests.conftest import RunningServer, running
from tests.processes import PATIENCE, until
from tests.server.contract import Wire, error_of
from tests.server.engines import held_up, version_of

X = np.full(3, 0.25, np.float32)


@pytest.fixture(scope="module")
def narrow(model_store: Path) -> Iterator[RunningServer]:
    """A server in which 16 items may wait, 8 of them of one tenant."""
    with running(store=model_store, shipped=False, max_queue=16) as server:
        yield server


@pytest.fixture
def wire(narrow: RunningServer) -> Iterator[Wire]:
    with grpc.insecure_channel(narrow.target) as channel:
        yield Wire(channel)


def door(server: RunningServer) -> Door:
    return version_of(server, "tiny").door


def rejected(server: RunningServer, reason: str, model: str = "tiny") -> float:
    labels = {"model": model, "reason": reason}
    registry = server.server.metrics.registry
    return registry.get_sample_value("carousel_admission_rejected_total", labels) or 0.0


def request(handles: list[int], priority: int = 0) -> pb.StepRequest:
    inputs = tensors.encode(np.tile(X, (len(handles), 1)))
    indexes = [0] * len(handles)
    return pb.StepRequest(handles=handles, step_indexes=indexes, inputs=inputs, priority=priority)  # type: ignore[arg-type]


def of(tenant: str) -> tuple[tuple[str, str], ...]:
    return (("x-carousel-tenant", tenant),)


def handles(wire: Wire, count: int, tenant: str = "") -> list[int]:
    return [wire.create_for(tenant).handle for _ in range(count)]


def test_a_full_queue_refuses_a_call_at_once_with_a_time_to_come_back(
    narrow: RunningServer, wire: Wire
) -> None:
    first, late, other = handles(wire, 8, "a"), handles(wire, 1, "a"), handles(wire, 1, "b")
    before = rejected(narrow, "tenant_full")
    with held_up(narrow):
        waiting = wire.inference.Step.future(request(first), metadata=of("a"))
        until(lambda: door(narrow).inside == 8)
        with pytest.raises(grpc.RpcError) as failure:
            wire.inference.Step(request(late), metadata=of("a"), timeout=PATIENCE)
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        [info] = details(failure.value, error_details_pb2.ErrorInfo)
        [retry] = details(failure.value, error_details_pb2.RetryInfo)
        assert info.reason == "QUEUE_FULL"
        assert retry.retry_delay.ToNanoseconds() > 0
        assert len(details(failure.value, error_details_pb2.QuotaFailure)) == 1
        others = wire.inference.Step.future(request(other), metadata=of("b"))
        until(lambda: door(narrow).inside == 9)
    assert not waiting.result(PATIENCE).errors
    assert not others.result(PATIENCE).errors
    assert rejected(narrow, "tenant_full") == before + 1
    assert not wire.inference.Step(request(late), metadata=of("a"), timeout=PATIENCE).errors
    assert door(narrow).inside == 0


M = TypeVar("M", bound=Message)


def details(failure: grpc.RpcError, kind: type[M]) -> list[M]:
    """The details of this kind in a failed call."""
    assert isinstance(failure, grpc.Call)
    metadata: Any = failure.trailing_metadata()
    raw = dict(metadata or ())["grpc-status-details-bin"]
    messages = [(packed, kind()) for packed in status_pb2.Status.FromString(raw).details]
    return [message for packed, message in messages if packed.Unpack(message)]


def test_of_a_message_that_fits_in_part_the_first_items_run(
    narrow: RunningServer, wire: Wire
) -> None:
    many = handles(wire, 11, "a")
    response = wire.inference.Step(request(many), metadata=of("a"), timeout=PATIENCE)
    assert [error.item for error in response.errors] == [8, 9, 10]
    assert {error.reason for error in response.errors} == {"QUEUE_FULL"}
    assert all(float(error.metadata["retry_after_seconds"]) > 0 for error in response.errors)
    assert list(response.lengths) == [1] * 8 + [0] * 3


def test_a_stream_lives_on_when_items_of_it_are_refused(narrow: RunningServer, wire: Wire) -> None:
    first, late = handles(wire, 8, "a"), handles(wire, 3, "a")
    refused = threading.Event()

    def messages() -> Iterator[pb.StreamStepsRequest]:
        yield pb.StreamStepsRequest(step=request(first))
        yield pb.StreamStepsRequest(step=request(late))
        refused.wait(PATIENCE)
        yield pb.StreamStepsRequest(step=request(late))

    with held_up(narrow):
        stream = wire.inference.StreamSteps(messages(), metadata=of("a"), timeout=PATIENCE)
        answer = next(stream).step
        assert list(answer.handles) == late
        assert [error.reason for error in answer.errors] == ["QUEUE_FULL"] * 3
        assert [error.item for error in answer.errors] == [0, 1, 2]
        assert all(float(error.metadata["retry_after_seconds"]) > 0 for error in answer.errors)
    served = list(next(stream).step.handles)
    assert sorted(served) == sorted(first)
    refused.set()
    assert [list(message.step.handles) for message in stream] == [late]


def test_bulk_makes_room_for_interactive_work_newest_first(
    narrow: RunningServer, wire: Wire
) -> None:
    bulk = [handles(wire, 4, f"bulk-{number}") for number in range(4)]
    urgent, more = handles(wire, 6, "urgent"), handles(wire, 1, "bulk-9")
    before = rejected(narrow, "shed")
    with held_up(narrow):
        calls = []
        for number, some in enumerate(bulk):  # 16 items: the queue is full
            message = request(some, pb.PRIORITY_BULK)
            calls.append(wire.inference.Step.future(message, metadata=of(f"bulk-{number}")))
            until(lambda number=number: door(narrow).inside == 4 * number + 4)
        late = request(more, pb.PRIORITY_BULK)
        with pytest.raises(grpc.RpcError) as failure:
            wire.inference.Step(late, metadata=of("bulk-9"), timeout=PATIENCE)
        assert error_of(failure.value).reason == "QUEUE_FULL"
        first = wire.inference.Step.future(request(urgent), metadata=of("urgent"))
        until(lambda: door(narrow).inside == 22)
    assert not first.result(PATIENCE).errors
    shed = [[error.item for error in call.result(PATIENCE).errors] for call in calls]
    assert shed == [[], [], [2, 3], [0, 1, 2, 3]]
    errors = [error for call in calls for error in call.result(PATIENCE).errors]
    assert {error.reason for error in errors} == {"QUEUE_FULL"}
    assert all(float(error.metadata["retry_after_seconds"]) > 0 for error in errors)
    assert rejected(narrow, "shed") == before + 6


def test_a_refused_step_can_be_taken_again_by_the_same_session(narrow: RunningServer) -> None:
    async def main() -> None:
        async with (
            AsyncClient(narrow.target, tenant="greedy") as greedy,
            AsyncClient(narrow.target, tenant="modest") as modest,
        ):

            async def sessions(client: AsyncClient, count: int) -> list[AsyncSession]:
                return [await client.session("tiny", priority="bulk") for _ in range(count)]

            late, *others = await sessions(greedy, 9)
            session, twin = await sessions(modest, 2)
            before = await session.step(X)
            with held_up(narrow):
                waiting = [asyncio.create_task(other.step(X)) for other in others]
                await eventually(lambda: inside(narrow) == 8)
                with pytest.raises(QueueFull, match="one tenant") as failure:
                    await late.chunk(np.tile(X, (100, 1)))  # alone in its message
                assert (failure.value.retry_after or 0) > 0
                assert late.step_index == 0
                mine = asyncio.create_task(session.step(X))
                await eventually(lambda: inside(narrow) == 9)
            await asyncio.gather(*waiting)
            assert (await late.chunk(np.tile(X, (100, 1)))).shape == (100, 2)
            want = await twin.chunk(np.tile(X, (2, 1)))
            assert_close([before, await mine], want)

    asyncio.run(main())


def inside(server: RunningServer) -> int:
    return door(server).inside


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("tenant", ["Acme", "a b", "a" * 64, "ä"])
def test_a_tenant_is_at_most_63_letters_digits_and_hyphens(kind: type, tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant must be at most 63"):
        kind("localhost:1", tenant=tenant)


def test_a_server_refuses_what_is_no_tenant_s_name(wire: Wire) -> None:
    [handle] = handles(wire, 1)
    with pytest.raises(grpc.RpcError) as failure:
        wire.inference.Step(request([handle]), metadata=of("Not_One"), timeout=PATIENCE)
    error = error_of(failure.value)
    assert (error.reason, error.field) == ("INVALID_FIELD", "x-carousel-tenant")


def test_a_priority_is_one_of_two(server: RunningServer) -> None:
    with Client(server.target) as client, pytest.raises(InvalidField, match="interactive, bulk"):
        client.session("tiny", priority="urgent")  # type: ignore[arg-type]


def test_everything_that_a_bulk_session_does_is_bulk(narrow: RunningServer) -> None:
    async def main() -> None:
        async with AsyncClient(narrow.target) as client:
            session = await client.session("tiny", priority="bulk")
            [copy] = await session.fork(1)
            again = await client.attach(copy.name, priority=copy.priority)
            other = await client.session("tiny")
            assert [one.priority for one in (session, again, other)] == ["bulk"] * 2 + [
                "interactive"
            ]
            with held_up(narrow):
                tasks = [
                    asyncio.create_task(session.step(X)),
                    asyncio.create_task(again.chunk(np.tile(X, (3, 1)))),
                    asyncio.create_task(other.step(X)),
                ]
                await eventually(lambda: inside(narrow) == 3)
                assert door(narrow).bulk_inside == 2
            await asyncio.gather(*tasks)
            with held_up(narrow):
                task = asyncio.create_task(client.step_many([session, again, other], [X] * 3))
                await eventually(lambda: inside(narrow) == 2)  # a message for each priority
                assert door(narrow).bulk_inside == 2
            await task

    asyncio.run(main())


def test_a_generation_that_has_begun_waits_while_the_queue_is_full(
    narrow: RunningServer,
) -> None:
    letters = version_of(narrow, "letters").door

    async def main() -> None:
        async with AsyncClient(narrow.target) as client:
            session, twin = [await client.session("letters") for _ in range(2)]
            for one in (session, twin):
                await one.step(1)
            want = [token.id async for token in twin.generate(max_tokens=6, seed=3)]
            letters.limit = 0
            stream = session.generate(max_tokens=6, seed=3)
            first = asyncio.create_task(anext(stream))
            await eventually(lambda: rejected(narrow, "queue_full", "letters") > 0)
            with pytest.raises(QueueFull):  # one whose prompt is not fed does not wait
                await anext(twin.generate([3]))
            letters.limit = 16
            got = [(await first).id, *[token.id async for token in stream]]
            assert got == want

    try:
        asyncio.run(main())
    finally:
        letters.limit = 16


@contextmanager
def sequences_held_up(server: RunningServer) -> Iterator[CallQueue]:
    """The thread of whole sequences stands still meanwhile."""
    sequences = server.server._inference._sequences
    reached, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        go_on.wait(PATIENCE)

    sequences._thread.submit(wait)
    assert reached.wait(PATIENCE)
    try:
        yield sequences._queue
    finally:
        go_on.set()


def test_whole_sequences_keep_priorities_and_share_between_tenants(narrow: RunningServer) -> None:
    order: list[str] = []

    async def predict(client: AsyncClient, name: str, priority: Priority) -> None:
        await client.predict("tiny", [np.tile(X, (4, 1))], priority=priority)
        order.append(name)

    async def main() -> None:
        async with (
            AsyncClient(narrow.target, tenant="a") as a,
            AsyncClient(narrow.target, tenant="b") as b,
        ):
            calls: list[tuple[AsyncClient, str, Priority]] = [
                (a, "at once", "bulk"),
                (a, "bulk", "bulk"),
                (a, "a1", "interactive"),
                (a, "a2", "interactive"),
                (a, "a3", "interactive"),
                (b, "b1", "interactive"),
            ]
            with sequences_held_up(narrow) as queue:
                tasks = []
                for number, call in enumerate(calls):
                    tasks.append(asyncio.create_task(predict(*call)))
                    await eventually(lambda n=number: queue.door.inside == n + 1)  # type: ignore[misc]
            await asyncio.gather(*tasks)

    asyncio.run(main())
    assert order == ["at once", "a1", "b1", "a2", "a3", "bulk"]


def test_whole_sequences_are_refused_at_a_bound_and_bulk_makes_room(narrow: RunningServer) -> None:
    async def predict(client: AsyncClient, priority: Priority) -> str:
        try:
            await client.predict("tiny", [np.tile(X, (4, 1))], priority=priority)
        except QueueFull as full:
            return "refused" if full.retry_after else "refused without a time to come back"
        return "served"

    async def main() -> None:
        async with AsyncClient(narrow.target) as client:
            with sequences_held_up(narrow) as queue:
                tasks = []
                priorities: list[Priority] = ["interactive", "bulk", "bulk"]
                for number, priority in enumerate(priorities):
                    tasks.append(asyncio.create_task(predict(client, priority)))
                    await eventually(lambda n=number: queue.door.inside == n + 1)  # type: ignore[misc]
                queue.door.tenant_limit = 3
                assert await predict(client, "bulk") == "refused"
                tasks.append(asyncio.create_task(predict(client, "interactive")))
                assert await tasks[2] == "refused"  # the newest bulk call
                tasks[1].cancel()
                await eventually(lambda: queue.door.inside == 2)
                queue.door.tenant_limit = 128
            assert [await tasks[0], await tasks[3]] == ["served"] * 2
            assert await predict(client, "bulk") == "served"

    asyncio.run(main())

"""Traces: from a caller's span through the server to a collector, and nothing where nobody asks."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sqlite3
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.trace import format_trace_id

from carousel import tensors
from carousel.client import AsyncClient, Client
from carousel.server import logs
from carousel.server.tracing.opening import TracingError, open_tracer
from carousel.server.tracing.trace import NO_TRACER, exported_id
from carousel.v1 import admin_service_pb2, admin_service_pb2_grpc, session_pb2
from carousel.v1 import inference_service_pb2 as pb
from tests.conftest import RunningServer, running, settings_of
from tests.processes import PATIENCE, until
from tests.server.collector import Caller, Collector
from tests.server.contract import Wire

X = [1.0, 2.0, 3.0]
TINY, LETTERS = "models/tiny/versions/1", "models/letters/versions/1"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.stop()


@pytest.fixture(scope="module")
def traced(model_store: Path, collector: Collector) -> Iterator[RunningServer]:
    """A server that exports what its callers sampled, and nothing else."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        environment.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        endpoint = collector.endpoint
        with running(store=model_store, shipped=False, otlp_endpoint=endpoint, trace_ratio=0) as it:
            yield it


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What is logged meanwhile."""
    stream = io.StringIO()
    loggers = [logging.getLogger(name) for name in (logs.ROOT, logs.TRACES)]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    logs.configure(level="info", style="json", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate


def attributes(span: Span) -> dict[str, object]:
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value")
        for pair in span.attributes
    }


def named(spans: list[Span], name: str) -> list[Span]:
    found = [span for span in spans if span.name == name]
    return sorted(found, key=lambda span: span.start_time_unix_nano)


def request_of(spans: list[Span]) -> Span:
    [request] = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    return request


# Each makes one request of its kind within the caller's span.


def step(server: RunningServer, caller: Caller) -> None:
    with Client(server.target) as client, client.session("tiny") as session, caller.calling():
        session.step(X)


def chunk(server: RunningServer, caller: Caller) -> None:
    with Client(server.target) as client, client.session("tiny") as session, caller.calling():
        session.chunk([X] * 40)


def stream(server: RunningServer, caller: Caller) -> None:
    async def main() -> None:
        async with AsyncClient(server.target) as client, client.session("tiny") as session:
            with caller.calling():
                await session.step(X)

    asyncio.run(main())


def generate(server: RunningServer, caller: Caller) -> None:
    with Client(server.target) as client, caller.calling():
        assert len(list(client.generate("letters", [1, 2], max_tokens=3))) == 3


def generate_async(server: RunningServer, caller: Caller) -> None:
    async def main() -> None:
        async with AsyncClient(server.target) as client:
            with caller.calling():
                tokens = client.generate("letters", [1, 2], max_tokens=3)
                assert len([token async for token in tokens]) == 3

    asyncio.run(main())


def states(server: RunningServer, caller: Caller) -> None:
    with Client(server.target) as client, caller.calling():
        client.step_states("tiny", [None, None], [X, X])


def predict(server: RunningServer, caller: Caller) -> None:
    async def main() -> None:
        async with AsyncClient(server.target) as client:
            with caller.calling():
                await client.predict("tiny", [[X, X]])

    asyncio.run(main())


@pytest.mark.parametrize(
    ("ask", "method", "model", "turns", "commits"),
    [
        (step, "Step", TINY, 1, 1),
        (chunk, "Step", TINY, 3, 3),
        (stream, "StreamSteps", TINY, 1, 1),
        (generate, "Generate", LETTERS, 4, 4),
        (generate_async, "Generate", LETTERS, 4, 4),
        (states, "StepStates", TINY, 1, 1),
        (predict, "Predict", TINY, 1, 0),
    ],
)
def test_a_request_is_one_trace_from_its_caller_to_the_commit(
    traced: RunningServer,
    collector: Collector,
    ask: Callable[[RunningServer, Caller], None],
    method: str,
    model: str,
    turns: int,
    commits: int,
) -> None:
    caller = Caller()
    ask(traced, caller)
    spans = collector.trace(caller.trace_id, spans=1 + 2 * turns + commits)
    request = request_of(spans)
    queue, turn, commit = (named(spans, name) for name in ("queue", "turn", "commit"))
    assert (len(queue), len(turn), len(commit)) == (turns, turns, commits)
    assert len(spans) == 1 + 2 * turns + commits

    # Who is below whom.
    assert int.from_bytes(request.parent_span_id) == caller.span_id
    assert {span.parent_span_id for span in (*queue, *turn)} == {request.span_id}
    assert [span.parent_span_id for span in commit] == [span.span_id for span in turn[:commits]]

    # One after the other.
    moment = request.start_time_unix_nano
    for waits, rides in zip(queue, turn, strict=True):
        assert moment <= waits.start_time_unix_nano <= waits.end_time_unix_nano
        assert waits.end_time_unix_nano == rides.start_time_unix_nano
        moment = rides.end_time_unix_nano
    assert moment <= request.end_time_unix_nano
    for rides, commits_ in zip(turn, commit, strict=False):
        assert rides.start_time_unix_nano <= commits_.start_time_unix_nano
        assert commits_.start_time_unix_nano <= commits_.end_time_unix_nano
        assert commits_.end_time_unix_nano <= rides.end_time_unix_nano

    # What they say.
    assert request.name == f"carousel.v1.InferenceService/{method}"
    assert attributes(request) == {
        "rpc.system.name": "grpc",
        "rpc.method": request.name,
        "rpc.response.status_code": "CANCELLED" if method == "StreamSteps" else "OK",
        "carousel.model": model,
        "carousel.turns": turns,
    }
    items = 2 if method == "StepStates" else 1
    assert attributes(turn[0]) == {
        "carousel.model": model,
        "carousel.batch_size": items,
        "carousel.items": items,
    }


def test_the_exporter_says_who_it_is(traced: RunningServer, collector: Collector) -> None:
    caller = Caller()
    step(traced, caller)
    collector.trace(caller.trace_id, spans=4)
    said = {pair.key: pair.value.string_value for pair in collector.resources[-1].attributes}
    assert said["service.name"] == "carousel"
    assert said["service.instance.id"] == traced.server.instance_id
    assert said["deployment.environment.name"] == "test"  # of the standard environment


def test_the_commit_of_a_sync_session_ends_in_the_store(
    traced: RunningServer, collector: Collector
) -> None:
    caller = Caller()
    with (
        Client(traced.target) as client,
        client.session("tiny", durability="sync") as session,
        caller.calling(),
    ):
        session.step(X)
    spans = collector.trace(caller.trace_id, spans=5)
    [turn], [stored] = named(spans, "turn"), named(spans, "commit to store")
    assert stored.parent_span_id == request_of(spans).span_id
    assert turn.start_time_unix_nano <= stored.start_time_unix_nano < stored.end_time_unix_nano
    assert turn.end_time_unix_nano <= stored.end_time_unix_nano
    assert stored.end_time_unix_nano <= request_of(spans).end_time_unix_nano


def test_a_commit_that_the_store_does_not_take_has_failed(
    traced: RunningServer, collector: Collector
) -> None:
    caller, store = Caller(), traced.settings.session_store_address
    assert store is not None
    with (
        grpc.insecure_channel(traced.target) as channel,
        closing(sqlite3.connect(store, isolation_level=None)) as database,
    ):
        wire = Wire(channel)
        session = wire.create(durability=session_pb2.DURABILITY_SYNC)
        database.execute("ALTER TABLE entries RENAME TO away")
        try:
            response = wire.inference.Step(request(session), metadata=(caller.header,))
        finally:
            database.execute("ALTER TABLE away RENAME TO entries")
    until(lambda: traced.server.hall.engine.behind.trouble is None)
    assert [error.reason for error in response.errors] == ["STORE_UNAVAILABLE"]
    [stored] = named(collector.trace(caller.trace_id, spans=5), "commit to store")
    assert stored.status.code == Status.STATUS_CODE_ERROR


def request(session: session_pb2.Session) -> pb.StepRequest:
    """The first step of a session."""
    inputs = tensors.encode(np.array([X], np.float32))
    return pb.StepRequest(handles=[session.handle], step_indexes=[0], inputs=inputs)


def test_a_turn_links_to_the_other_requests_that_rode_it(
    traced: RunningServer, collector: Collector
) -> None:
    engine, go = traced.server.hall.engine, threading.Event()
    callers = [Caller(), Caller()]
    with grpc.insecure_channel(traced.target) as channel:
        wire = Wire(channel)
        requests = [request(wire.create()) for _ in callers]
        engine.post(lambda: assert_set(go))
        answers = [
            wire.inference.Step.future(one, metadata=(caller.header,))
            for one, caller in zip(requests, callers, strict=True)
        ]
        until(lambda: engine.waiting == 2)
        ids = {exported_id(work.trace) for _, work in engine._inbox}
        assert ids == {format_trace_id(caller.trace_id) for caller in callers}
        go.set()
        assert not any(answer.result(PATIENCE).errors for answer in answers)
    one, other = (collector.trace(caller.trace_id, spans=4) for caller in callers)
    for mine, theirs in ((one, other), (other, one)):
        [turn] = named(mine, "turn")
        [link] = turn.links
        assert link.span_id == request_of(theirs).span_id
        assert link.trace_id == request_of(theirs).trace_id
        assert attributes(turn)["carousel.batch_size"] == 2


def assert_set(event: threading.Event) -> None:
    assert event.wait(PATIENCE)


def test_an_exemplar_of_the_step_duration_names_the_trace(traced: RunningServer) -> None:
    caller = Caller()
    step(traced, caller)
    page = urllib.request.Request(
        f"http://localhost:{traced.server.http_port}/metrics",
        headers={"Accept": "application/openmetrics-text"},
    )
    with urllib.request.urlopen(page, timeout=PATIENCE) as answer:
        text = answer.read().decode()
    buckets = [line for line in text.splitlines() if f"{caller.trace_id:032x}" in line]
    assert [line.partition("{")[0] for line in buckets] == ["carousel_step_duration_seconds_bucket"]


def test_a_failed_request_says_why(traced: RunningServer, collector: Collector) -> None:
    refused, broken = Caller(), Caller()
    with grpc.insecure_channel(traced.target) as channel:
        wire = Wire(channel)
        with pytest.raises(grpc.RpcError):
            wire.inference.Step(pb.StepRequest(), metadata=(refused.header,))
        traced.server.hall.draining = True
        with pytest.raises(grpc.RpcError):
            wire.inference.Step(pb.StepRequest(), metadata=(broken.header,))
        traced.server.hall.draining = False
    [request] = collector.trace(refused.trace_id, spans=1)
    assert attributes(request)["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert attributes(request)["carousel.reason"] == "INVALID_FIELD"
    assert request.status.code == Status.STATUS_CODE_UNSET  # not the server's fault
    [request] = collector.trace(broken.trace_id, spans=1)
    assert attributes(request)["error.type"] == "UNAVAILABLE"
    assert request.status.code == Status.STATUS_CODE_ERROR


def test_what_is_not_sampled_is_not_exported(traced: RunningServer, collector: Collector) -> None:
    unsampled, sampled = Caller(sampled=False), Caller()
    before = len(collector.spans)
    step(traced, unsampled)
    with Client(traced.target) as client, client.session("tiny") as session:
        session.step(X)
    step(traced, sampled)
    collector.trace(sampled.trace_id, spans=4)  # spans are exported in the order of their ends
    assert {int.from_bytes(span.trace_id) for span in collector.spans[before:]} == {
        sampled.trace_id
    }


def test_the_ratio_decides_where_the_caller_did_not(
    collector: Collector, serve: Callable[..., RunningServer]
) -> None:
    server = serve(shipped=False, otlp_endpoint=collector.endpoint, trace_ratio=1)
    unsampled, before = Caller(sampled=False), len(collector.spans)
    with Client(server.target) as client:
        client.server_info()
    with Client(server.target) as client, unsampled.calling():
        client.server_info()
    server.stop()  # which exports what is left
    [request] = collector.spans[before:]
    assert request.name == "carousel.v1.AdminService/GetServerInfo"
    assert request.parent_span_id == b""


def test_a_collector_that_hangs_holds_nobody_up(
    collector: Collector, serve: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    server = serve(shipped=False, otlp_endpoint=collector.endpoint)
    collector.asked.clear()
    collector.answers.clear()
    with Client(server.target) as client, client.session("tiny") as session:
        session.step(X)
        assert collector.asked.wait(PATIENCE)
        for index in range(1, 300):
            assert session.step_index == index
            session.step(X)
        assert not collector.answers.is_set()
    collector.answers.set()


def test_a_collector_that_is_down_fails_nobody(serve: Callable[..., RunningServer]) -> None:
    gone = Collector()
    gone.stop()
    server = serve(shipped=False, otlp_endpoint=gone.endpoint)
    with Client(server.target) as client, client.session("tiny") as session:
        assert session.chunk([X] * 300).shape == (300, 2)
    server.stop()


@pytest.mark.parametrize("sampled", [True, False])
def test_lines_of_logs_have_the_ids_of_the_trace_and_the_request(
    traced: RunningServer,
    collector: Collector,
    lines: Callable[[], list[dict[str, Any]]],
    sampled: bool,
) -> None:
    caller = Caller(sampled=sampled)
    with grpc.insecure_channel(traced.target) as channel:
        admin = admin_service_pb2_grpc.AdminServiceStub(channel)
        metadata = (caller.header, ("x-request-id", "Trace/42"))
        request = admin_service_pb2.GetServerInfoRequest()
        _, call = admin.GetServerInfo.with_call(request, metadata=metadata)
        assert ("x-request-id", "Trace/42") in trailers(call)
    [line] = [one for one in lines() if one["logger"] == "carousel.rpc"]
    assert line["request_id"] == "Trace/42"
    assert int(line["trace_id"], 16) == caller.trace_id
    assert ("span_id" in line) == sampled
    if sampled:
        [span] = collector.trace(caller.trace_id, spans=1)
        assert line["span_id"] == span.span_id.hex()


def trailers(call: Any) -> list[tuple[str, str]]:
    return [(pair.key, pair.value) for pair in call.trailing_metadata()]


def test_who_is_refused_finds_the_request_s_id_in_the_trailers(
    server: RunningServer, channel: grpc.Channel
) -> None:
    wire = Wire(channel)
    with pytest.raises(grpc.RpcError) as refused:
        wire.inference.Step(pb.StepRequest(), metadata=(("x-request-id", "mine"),))
    assert ("x-request-id", "mine") in trailers(refused.value)
    with pytest.raises(grpc.RpcError) as refused:
        list(wire.inference.Generate(pb.GenerateRequest()))
    [made] = [value for key, value in trailers(refused.value) if key == "x-request-id"]
    assert len(made) == 16


@pytest.mark.parametrize(
    ("environment", "traces"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:1"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1", "OTEL_SDK_DISABLED": "true"}, False),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:1", "OTEL_TRACES_EXPORTER": "none"},
            False,
        ),
    ],
)
def test_the_standard_environment_turns_tracing_on_and_off(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    traces: bool,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    tracer = open_tracer(settings_of(tmp_path), instance_id="one")
    tracer.close()
    assert (tracer is not NO_TRACER) == traces


def test_another_protocol_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    with pytest.raises(TracingError, match="must be grpc, got 'http/protobuf'"):
        open_tracer(settings_of(tmp_path), instance_id="one")


def test_without_the_packages_only_who_asks_for_traces_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    wanted = settings_of(tmp_path, otlp_endpoint="http://localhost:4317")
    with pytest.raises(TracingError, match=r"pip install 'carousel-rnn\[otel\]'"):
        open_tracer(wanted, instance_id="one")
    # A variable may be there for other programs.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317")
    assert open_tracer(settings_of(tmp_path), instance_id="one") is NO_TRACER

"""What `carousel bench stages` runs: a server with a clock around it, and callers beside it."""

import asyncio
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import grpc
import numpy as np

from carousel import tensors
from carousel.v1 import inference_service_pb2 as pb
from carousel.v1 import inference_service_pb2_grpc, session_service_pb2, session_service_pb2_grpc

if TYPE_CHECKING:
    from carousel.model.config import Cell
    from carousel.server.stages import Stages

INPUT = OUTPUT = 64
MODEL = "measured"


class Load(NamedTuple):
    """`callers` that each send the next step of `per_message` sessions when the last is back."""

    name: str
    callers: int
    per_message: int = 1
    streams: bool = False


LOADS = (
    Load("alone", 1),
    Load("unary", 64),
    Load("stream", 64, streams=True),
    Load("batch-64", 4, 64),
    Load("batch-256", 4, 256),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One stage under one load, in microseconds."""

    load: str
    messages: int  # that were measured
    stage: str
    message_us: float  # that a message spends in it
    share: float  # of the time from the first byte that is read to the last that is written
    turn_us: float | None  # that the server works in it for a turn; None where it only waits
    step_us: float | None


def rows_of(load: str, stages: "Stages") -> list[Row]:
    """The table of one load; the last row is the whole."""
    from carousel.server.stages import STAGES, WAITS

    messages, turns, steps = (max(1, n) for n in (stages.messages, stages.turns, stages.steps))
    whole = stages.whole or 1.0
    rows = []
    for stage in STAGES:
        passed, worked = stages.passed[stage], stages.worked[stage]
        busy = (None, None) if stage in WAITS else (worked / turns * 1e6, worked / steps * 1e6)
        rows.append(
            Row(load, stages.messages, stage, passed / messages * 1e6, passed / whole, *busy)
        )
    worked = sum(stages.worked.values())
    last = (stages.whole / messages * 1e6, 1.0, worked / turns * 1e6, worked / steps * 1e6)
    return [*rows, Row(load, stages.messages, "whole", *last)]


async def measure(
    loads: Sequence[Load], *, cell: str, layers: int, hidden_size: int, seconds: float
) -> list[Row]:
    """Start a server with a random model, and put the loads on it one after the other."""
    from carousel.model import Features, Linear, ModelConfig, Network, save
    from carousel.server import Server, Settings
    from carousel.server.stages import StageClock

    for name in [name for name in os.environ if name.startswith("CAROUSEL_")]:
        del os.environ[name]  # the settings, keys and target of other servers
    clock = StageClock()
    with tempfile.TemporaryDirectory() as folder, clock.running():
        config = ModelConfig(
            cell=cast("Cell", cell),  # which ModelConfig checks
            layers=layers,
            hidden_size=hidden_size,
            input=Features(INPUT),
            head=Linear(OUTPUT),
        )
        store = Path(folder) / "models"
        save(store / MODEL / "1", Network(config))
        given: dict[str, Any] = {"store": store, "data": Path(folder) / "data", "shipped": False}
        more: dict[str, Any] = {"port": 0, "http_port": "off", "log_level": "error"}
        server = Server(Settings.read(None, load=(MODEL,), **given, **more))
        await server.start()
        found = []
        for load in loads:
            await _put_on(load, server.port, 0.2)
            clock.take()
            await _put_on(load, server.port, seconds)
            found += rows_of(load.name, clock.take())
        await server.stop()
    return found


async def _put_on(load: Load, port: int, seconds: float) -> None:
    """Run the callers in a process of their own, so that they do not share the server's lock."""
    process = multiprocessing.get_context("spawn").Process(
        target=callers, args=(load, port, seconds), daemon=True
    )
    await asyncio.to_thread(process.start)
    await asyncio.to_thread(process.join)
    if process.exitcode:
        raise RuntimeError(f"the callers of {load.name} failed")


def callers(load: Load, port: int, seconds: float) -> None:
    """The main function of the callers' process."""
    asyncio.run(_call(load, port, seconds))


async def _call(load: Load, port: int, seconds: float) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        sessions = session_service_pb2_grpc.SessionServiceStub(channel)
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        new = session_service_pb2.CreateSessionRequest(model=f"models/{MODEL}")
        end = asyncio.get_running_loop().time() + seconds

        async def caller() -> None:
            handles = [(await sessions.CreateSession(new)).handle for _ in range(load.per_message)]
            values = np.random.default_rng(handles[0]).standard_normal((len(handles), INPUT))
            inputs = tensors.encode(values.astype(np.float32))
            stream = stub.StreamSteps() if load.streams else None
            index = 0
            while asyncio.get_running_loop().time() < end or not index:
                indexes = [index] * len(handles)
                message = pb.StepRequest(handles=handles, step_indexes=indexes, inputs=inputs)
                if stream is None:
                    answer = await stub.Step(message, timeout=30)
                else:
                    await stream.write(pb.StreamStepsRequest(step=message))
                    answer = cast(pb.StreamStepsResponse, await stream.read()).step
                if answer.errors:
                    raise RuntimeError(answer.errors[0].message)
                index += 1
            if stream is not None:
                await stream.done_writing()

        await asyncio.gather(*(caller() for _ in range(load.callers)))

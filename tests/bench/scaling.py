"""What a step costs beside idle sessions, and in chunks; how long a start and an import take."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc

from carousel.v1 import session_service_pb2 as pb
from carousel.v1 import session_service_pb2_grpc
from tests.bench.bench import Bench, Ratio
from tests.bench.beside import settle
from tests.bench.child import Child
from tests.bench.closed_loop import Shape
from tests.bench.models import name_of

ACTIVE = 4096
AT_ONCE = 10_000
MODELS = 10


def live(bench: Bench) -> None:
    """The same 4,096 sessions in messages of 256, while more and more others idle."""
    name = name_of("lstm", 256)
    counts = (0, 20_000) if bench.brief else (0, 10_000, 30_000, 95_000)
    server, idle = bench.server("real", name), 0
    for wanted in counts:
        _fill(server, name, wanted - idle)
        idle = wanted
        arm = bench.light("real", "lstm", 256, Shape(ACTIVE, 256, 1), "4,096 active")
        facts = {"cell": "lstm", "hidden": 256, "sessions": idle + ACTIVE}
        bench.compare("live", [arm], facts)
    bench.stop_servers()


def chunks(bench: Bench) -> None:
    """64 sessions in a message, with ever longer chunks."""
    name = name_of("lstm", 256)
    for length in (1, 16, 256) if bench.brief else (1, 4, 16, 64, 256):
        shape = Shape(128, 64, 1, length=length)
        server = bench.server("real", name)
        arm = bench.termed(server, name, shape, f"chunks of {length}")
        arm.before = partial(settle, server)
        facts = {"cell": "lstm", "hidden": 256, "sessions": 128, "length": length}
        bench.compare("chunks", [arm], facts, seconds=2, blocks=2 if bench.brief else 5)
    bench.stop_servers()


def _fill(server: Child, model: str, count: int) -> None:
    """So many more sessions, which nobody steps."""
    if not count:
        return
    with grpc.insecure_channel(f"127.0.0.1:{server.greeting}") as channel:
        service = session_service_pb2_grpc.SessionServiceStub(channel)
        first = service.CreateSession(pb.CreateSessionRequest(model=f"models/{model}")).name
        while count > 0:
            service.ForkSession(pb.ForkSessionRequest(name=first, count=min(count, AT_ONCE)))
            count -= AT_ONCE


def starting(bench: Bench) -> None:
    """From `carousel serve` to ready with ten models, and the import of the client."""
    with TemporaryDirectory() as folder:
        for number in range(MODELS):
            model = Path(folder) / "models" / f"model-{number}"
            shutil.copytree(bench.store / name_of("lstm", 256), model)
        starts = [_start(Path(folder)) for _ in range(bench.blocks)]
    imports = [_run("import carousel.client") - _run("pass") for _ in range(bench.blocks)]
    bench.results.append({"suite": "starting", "arm": "serve", "models": MODELS, "seconds": starts})
    bench.results.append({"suite": "starting", "arm": "import carousel.client", "seconds": imports})
    bench.say(
        f"  starting {MODELS} models: {statistics.median(starts):.2f} s; "
        f"import carousel.client: {statistics.median(imports):.2f} s"
    )
    bench.bar("start", Ratio.of(starts))
    bench.bar("import", Ratio.of(imports))


def _start(folder: Path) -> float:
    """Seconds until the server says where it listens, which it does once it is ready."""
    command = [sys.executable, "-m", "carousel.cli", "serve", "--json", "--no-shipped"]
    command += ["--port", "0", "--http-port", "off", "--log-level", "error"]
    command += ["--store", str(folder / "models"), "--data", str(folder / "data")]
    begin = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            json.loads(process.stdout.readline())
            return time.monotonic() - begin
        finally:
            process.terminate()


def _run(code: str) -> float:
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.monotonic() - begin

"""`python -m tests.bench.instructions`: what the parts of a step take, counted by valgrind.

    python -m tests.bench.instructions            compare with the baseline, as tests.bench.counts
    python -m tests.bench.instructions --accept   make what was counted the new baseline

Valgrind shows every program the same processor, so that machines do not differ. Only parts that run
without torch: that would take it half a minute to import.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime

from carousel import tensors
from carousel.server import one_step, steps
from carousel.server.table import SessionTable
from carousel.server.work import Answer, Work
from carousel.v1 import inference_service_pb2 as pb
from tests.bench.models import INPUT, OUTPUT

BASELINE = Path(__file__).with_name("instructions.json")
GROWTH = 0.1  # of the baseline; runs differ by 0.01, that of the smallest count by 0.03
CALLS, ROUNDS = 10, 4  # the cheapest round counts: Python adapts its code to what it meets
MANY = 64  # sessions of a message
HIDDEN = 64

# How a program speaks to valgrind on x86-64, from valgrind.h: rotations which change nothing, and
# rax with the address of a request's numbers. A processor of its own sees no request in it.
REQUEST = bytes.fromhex("4889f8 31d2 48c1c703 48c1c70d 48c1c73d 48c1c733 4887db 4889d0 c3")
ZERO_STATS, DUMP_STATS_AT, START, STOP = (0x43540000 + number for number in (1, 3, 4, 5))
TOLD = re.compile(r"^desc: Trigger: Client Request: (.*)$(?:.|\n)*?^summary: (\d+)$", re.MULTILINE)


def missing() -> str | None:
    """Why nothing can be counted here."""
    if platform.machine() != "x86_64":
        return "valgrind is spoken to by code for x86-64"
    return None if shutil.which("valgrind") else "valgrind is not installed"


def versions() -> dict[str, str]:
    """What decides the counts besides our own code; Python as it was built."""
    packages = {name: version(name) for name in ("numpy", "onnxruntime", "protobuf")}
    valgrind = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True)
    return {"python": sys.version, "valgrind": valgrind.stdout.strip(), **packages}


def compare(found: dict[str, float], baseline: dict[str, float]) -> list[str]:
    """What has grown beyond its limit, in words."""
    return [
        f"{name}: {count:,.0f} instructions, the baseline has {baseline[name]:,.0f}"
        for name, count in found.items()
        if count > baseline[name] * (1 + GROWTH)
    ]


def counted() -> dict[str, float]:
    """Instructions of a call of every part, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        graph, out = Path(folder, "step.onnx"), Path(folder, "callgrind")
        graph.write_bytes(_graph())
        tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no"]
        child = [sys.executable, "-m", "tests.bench.instructions", "--under-valgrind", str(graph)]
        command = [*tool, f"--callgrind-out-file={out}", *child]
        environment = os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        dumps = [TOLD.search(dump.read_text()) for dump in Path(folder).glob("callgrind.*")]
    told = [(dump[1], int(dump[2])) for dump in dumps if dump]
    names = sorted({name for name, _ in told})
    return {name: min(n for one, n in told if one == name) / CALLS for name in names}


def _graph() -> bytes:
    import torch

    from carousel.model import Features, Linear, ModelConfig, Network
    from carousel.model.kernels.graph import step_graph

    torch.manual_seed(7)
    config = ModelConfig(
        cell="lstm",
        layers=2,
        hidden_size=HIDDEN,
        input=Features(INPUT),
        head=Linear(OUTPUT),
    )
    return step_graph(Network(config))


def _parts(graph: str) -> dict[str, Callable[[], object]]:
    """What is counted, by name."""
    table = SessionTable()
    terms = {"version": 0, "ttl": 60.0, "lifetime": 60.0, "now": 0.0}
    slots = [table.insert(str(number), row=number, **terms) for number in range(MANY)]  # type: ignore[arg-type]
    handles = table.handle[slots]
    message, messages = _request(handles[:1]), _request(handles)
    answer, answers = _answer(handles[:1]), _answer(handles)
    threads = onnxruntime.SessionOptions()
    threads.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, threads, providers=["CPUExecutionProvider"])

    def read_many() -> object:
        request = pb.StepRequest.FromString(messages)
        steps.check_columns(request)
        return list(request.handles), list(request.step_indexes), tensors.decode(request.inputs)

    rows = np.zeros((1, 4 * HIDDEN), np.float32)
    given = {"x": np.ones((1, INPUT), np.float32), "rows": rows}
    return {
        "read 1": lambda: one_step.read(message),
        f"read {MANY}": read_many,
        "find 1": lambda: table.slot_of(int(handles[0])),
        f"find {MANY}": lambda: table.slots_of(handles),
        "compute 1": lambda: session.run(["y", "new_rows"], given),
        "write 1": lambda: steps.encode([answer]),
        f"write {MANY}": lambda: steps.encode([answers]).SerializeToString(),  # type: ignore[union-attr]
    }


def _request(handles: np.ndarray) -> bytes:
    inputs = tensors.encode(np.ones((len(handles), INPUT), np.float32))
    indexes = [300] * len(handles)
    request = pb.StepRequest(handles=handles.tolist(), step_indexes=indexes, inputs=inputs)
    return request.SerializeToString()


def _answer(handles: np.ndarray) -> Answer:
    count = len(handles)
    inputs, outputs = np.ones((count, INPUT), np.float32), np.ones((count, OUTPUT), np.float32)
    work = Work(handles.tolist(), [300] * count, inputs, lambda answer: None)
    return Answer(work, np.arange(count), None, outputs, expire_time=1.9e9)


def _asker() -> Callable[..., None]:
    """A function that asks valgrind for something, with a text."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(REQUEST)
    code, function = ctypes.c_char.from_buffer(page), ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    def ask(what: int, text: bytes = b"") -> None:
        place = ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p).value or 0
        numbers = (ctypes.c_uint64 * 6)(what, place)
        function(ctypes.addressof(code))(ctypes.addressof(numbers))

    return ask


def _count(graph: str) -> None:
    """Of the process under valgrind: let every part be counted."""
    ask, parts = _asker(), _parts(graph)
    gc.disable()
    ask(START)
    for name, part in parts.items():
        for _ in range(ROUNDS):
            ask(ZERO_STATS)
            for _ in range(CALLS):
                part()
            ask(DUMP_STATS_AT, name.encode())
    ask(STOP)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.instructions", description=__doc__)
    parser.add_argument("--accept", action="store_true", help="make this the baseline")
    accept = parser.parse_args().accept
    if why := missing():
        sys.exit(why)
    found = counted()
    if accept:
        kept = {"versions": versions(), "instructions": found}
        BASELINE.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    baseline = json.loads(BASELINE.read_text(encoding="utf-8"))
    for name, count in found.items():
        print(f"{name:12} {count:12,.0f} {baseline['instructions'][name]:12,.0f}")
    if baseline["versions"] != versions():
        sys.exit(f"the baseline is of other versions: {baseline['versions']}; see --accept")
    if grown := compare(found, baseline["instructions"]):
        sys.exit("\n".join(grown))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--under-valgrind"]:
        _count(sys.argv[2])
    else:
        main()

"""A text of 1 GB and a Parquet file of 5 GB are learned from, each process within 1 GiB.

Through `carousel train` and a server, and by the library alone. A process that reads the data can
have no more memory of its own than the bound: the system refuses it. Maps of files are not its own;
the system takes them back when it wants.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from carousel.client import Client, JobState
from tests.processes import ServerProcess
from tests.soak.large_files import write_parquet, write_text
from tests.soak.watched_processes import Watched

GB = 10**9
# A file, its copy at the server and its corpus; and the library's corpus.
COPIES = 4
SMALL = ("--steps", 20, "--layers", 1, "--hidden", 16, "--batch", 16, "--window", 32)
TASKS = {
    "text": (),
    "parquet": ("--target", "v0", "--time", "time", "--horizon", 2, "--season", 24),
}
FILES = {"text": "words.txt", "parquet": "readings.parquet"}
# What `carousel train` does with a server, in one process and without one.
LIBRARY = """
import json, sys, time
from pathlib import Path
from carousel.model.data import ForecastTask, LanguageModelTask, prepare
from carousel.model.training import NetworkShape, Recipe
from carousel.model.training.job import run
from carousel.model.training.workers import Workers
import torch
torch.set_num_threads(1)
path, kind, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
series = ForecastTask(targets=("v0",), time_column="time", horizon=2, season=24)
task = LanguageModelTask() if kind == "text" else series
begin = time.monotonic()
prepare(path, task, folder / "corpus", format=kind)
shape = NetworkShape(layers=1, hidden_size=16)
recipe = Recipe(task=task, network=shape, max_steps=20, batch_size=16, window=32)
given = {"corpus": str(folder / "corpus"), "recipe": recipe.to_dict(), "baseline": None}
(folder / "job.json").write_text(json.dumps(given))
print(json.dumps(time.monotonic() - begin))
sys.exit(run(folder, Workers()))
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text-gb", type=float, default=1.0)
    parser.add_argument("--parquet-gb", type=float, default=5.0)
    parser.add_argument("--bound-mib", type=int, default=1024)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))


def run(options: argparse.Namespace) -> list[str]:
    wrong: list[str] = []
    for kind, size in (("text", options.text_gb), ("parquet", options.parquet_gb)):
        if shutil.disk_usage(options.folder).free < COPIES * size * GB:
            wrong.append(f"{kind}: {COPIES * size:g} GB must be free in {options.folder}")
        elif size:
            with tempfile.TemporaryDirectory(dir=options.folder, prefix="carousel-soak-") as name:
                wrong += _learn(Path(name), kind, int(size * GB), options.bound_mib)
    return wrong


def _learn(folder: Path, kind: str, size: int, bound_mib: int) -> list[str]:
    begin, file = time.monotonic(), folder / FILES[kind]
    (write_text if kind == "text" else write_parquet)(file, size)
    _say(f"{file.name}: {file.stat().st_size / GB:.2f} GB written", begin)
    wrong = []
    for how in (_by_server, _by_library):
        watched = Watched(bound_mib)
        with watched:
            wrong += how(folder, file, kind)
        print(watched.table(), flush=True)
        wrong += watched.wrong
    return [f"{kind}: {line}" for line in wrong]


def _by_server(folder: Path, file: Path, kind: str) -> list[str]:
    begin = time.monotonic()
    with (
        ServerProcess(folder, store=folder / "models") as server,
        Client(server.target, timeout=60) as client,
    ):
        command = [sys.executable, "-m", "carousel.cli", "train", file, "--name", "large"]
        command += ["--id", "large", "--server", server.target, *TASKS[kind], *SMALL]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            return [f"carousel train: {done.stderr or done.stdout}"[-2000:]]
        _say(f"{kind}, carousel train", begin)
        job = client.jobs.get("large")
        moments = {e.what: e.time for e in client.jobs.watch("large") if e.kind == "state"}
        server.terminate()
    prepared = moments[JobState.RUNNING] - moments[JobState.PREPARING]
    learned = moments[JobState.SUCCEEDED] - moments[JobState.RUNNING]
    seconds = time.monotonic() - begin
    rest = seconds - prepared.total_seconds() - learned.total_seconds()
    print(
        f"  sent and described {rest:.0f} s, prepared {prepared.total_seconds():.0f} s, learned "
        f"and tested {learned.total_seconds():.0f} s: {job.version}"
    )
    shutil.rmtree(folder / "data")
    return []


def _by_library(folder: Path, file: Path, kind: str) -> list[str]:
    begin, job = time.monotonic(), folder / "job"
    job.mkdir()
    command = [sys.executable, "-c", LIBRARY, str(file), kind, str(job)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return [f"the library: {done.stderr}"[-2000:]]
    _say(f"{kind}, the library; prepared in {json.loads(done.stdout):.0f} s", begin)
    shutil.rmtree(job)
    return []


def _say(what: str, begin: float) -> None:
    print(f"{what}: {time.monotonic() - begin:.0f} s", flush=True)

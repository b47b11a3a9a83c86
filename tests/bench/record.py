"""The record of a run: figures, and what they were measured on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.bench import Bench

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("grpcio", "numpy", "onnxruntime", "protobuf", "torch", "uvloop")


def machine() -> dict[str, Any]:
    """CPU, cores, versions, threads; nothing that names the machine."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "packages": {name: version(name) for name in PACKAGES},
        "compute_threads": 1,
        "dtype": "float32",
        "revision": _git("rev-parse", "--short=12", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def write(bench: Bench, about: dict[str, Any], seconds: float) -> Path:
    """Everything that was measured, as JSON."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / time.strftime("%Y%m%d-%H%M%S.json", time.gmtime())
    record = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": about,
        "brief": bench.brief,
        "seconds": seconds,
        "blocks": bench.blocks,
        "block_seconds": bench.seconds,
        "kernel": bench.bare.ask("kernel_name"),
        "bars": {name: asdict(value) for name, value in bench.bars.items()},
        "notes": bench.notes,
        "results": bench.results,
    }
    file.write_text(json.dumps(record, indent=1) + "\n")
    return file


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "?")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ("git", *arguments), cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()

"""Ten thousand random histories of sessions on two servers, against an oracle in float64."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=10_000, help="histories")
    parser.add_argument("--seed", type=int, help="of what happens in them; default: any")


def run(options: argparse.Namespace) -> Sequence[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/histories"]
    if options.seed is not None:
        command.append(f"--hypothesis-seed={options.seed}")
    environment = os.environ | {"HISTORIES": str(options.count)}
    done = subprocess.run(command, env=environment, check=False)
    return [] if done.returncode == 0 else ["a history did not fit the oracle"]

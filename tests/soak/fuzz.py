"""What decodes a stranger's bytes, fed by atheris: `pip install --group fuzz` first.

Each target runs in a process of its own. An exception that is no typed refusal ends it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile

TARGETS = (
    "tensors",
    "sealed",
    "records",
    "weights",
    "archive",
    "json_lines",
    "csv",
    "parquet",
    "paths",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=10.0, help="of each target")
    parser.add_argument("--target", choices=TARGETS, default=None)


def run(options: argparse.Namespace) -> list[str]:
    wrong = []
    for target in [options.target] if options.target else TARGETS:
        command = [sys.executable, "-m", "tests.soak.fuzz_targets", target]
        command += [f"-max_total_time={int(options.minutes * 60)}", "-max_len=4096"]
        folder = f"{tempfile.mkdtemp(prefix='carousel-fuzz-')}/"
        command += ["-rss_limit_mb=4096", f"-artifact_prefix={folder}", "-print_final_stats=1"]
        done = subprocess.run(command, capture_output=True, text=True)
        stats = [line for line in done.stderr.splitlines() if "number_of_executed" in line]
        print(f"{target}: {' '.join(stats) or 'no figures'}", flush=True)
        if done.returncode:
            wrong.append(f"{target}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    return wrong

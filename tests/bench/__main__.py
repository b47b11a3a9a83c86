"""`python -m tests.bench`: measure, print the table of bars, keep the raw figures."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from tests.bench import bars, models, record
from tests.bench.bench import Bench, WrongOutputs
from tests.bench.child import ChildFailed
from tests.bench.suites import QUICK, SUITES


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="two minutes: the path of a step alone"
    )
    parser.add_argument(
        "--thorough", action="store_true", help="more shapes, longer and more often: half an hour"
    )
    parser.add_argument(
        "--only", choices=SUITES, action="append", help="this suite; may be given again"
    )
    arguments = parser.parse_args()
    about = record.machine()
    begin = time.monotonic()
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        models.save_all(store)
        bench = Bench(store, brief=not arguments.thorough)
        try:
            for name in arguments.only or (QUICK if arguments.quick else SUITES):
                try:
                    SUITES[name](bench)
                except (AssertionError, ChildFailed, WrongOutputs) as error:
                    failed.append(name)  # the others are still worth their time
                    bench.say(f"{name} FAILED: {error}")
                bench.stop_servers()
            file = record.write(bench, about, time.monotonic() - begin)
        finally:
            bench.close()
    console = Console(width=max(180, Console().width))
    console.print(bars.table(bench.bars, bench.notes))
    console.print(f"{time.monotonic() - begin:.0f} s; raw figures in {os.path.relpath(file)}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

"""The command: run experiments by name, and write their records, tables and plots."""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from carousel.model.experiments import plots, record, tables
from carousel.model.experiments.catalogue import EXPERIMENTS, GRADIENTS, NAMES
from carousel.model.experiments.record import Record
from carousel.model.experiments.run import run_gradients, run_task
from carousel.model.experiments.tasks import DigitsError

OUT = Path("docs/experiments")
QUICK_OUT = Path(tempfile.gettempdir()) / "carousel-experiments"  # never over the real records


def main(argv: Sequence[str] | None = None) -> int:
    """Run what argv names; 0 when all of it ran, 1 when data were missing.

    argv: `[name ...] [--quick] [--out FOLDER] [--seed N]`. Without names every experiment runs,
    and one whose data are missing is passed over.
    """
    parser = argparse.ArgumentParser(
        prog="carousel experiments",
        description="Run the long-range tasks of the literature; write records, tables, plots.",
        epilog=f"names: {', '.join(NAMES)}",
    )
    parser.add_argument("names", nargs="*", metavar="name", help="all of them when there is none")
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the updates")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER",
        help=f"default: {OUT}, or {QUICK_OUT} for a quick run",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="of the weights and batches")
    given = parser.parse_args(argv)
    unknown = [name for name in given.names if name not in NAMES]
    if unknown:
        parser.error(f"no experiment {unknown[0]!r}: allowed are {', '.join(NAMES)}")
    folder = given.out or (QUICK_OUT if given.quick else OUT)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        names = given.names or NAMES
        missing = [n for n in names if not _run(n, given.quick, given.seed, folder)]
    finally:
        torch.set_num_threads(threads)
    report(folder)
    _say(f"Tables and plots: {folder / 'README.md'}")
    return 1 if given.names and missing else 0


def report(folder: Path) -> None:
    """Write README.md and the plots anew from the records in a folder."""
    records = record.read_all(folder)
    for found in records:
        plots.draw(folder, found)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(tables.page(records))


def _run(name: str, quick: bool, seed: int, folder: Path) -> bool:
    try:
        for found in _records(name, quick, seed):
            record.write(folder, found)
    except DigitsError as error:
        _say(f"{name}: {error}")
        return False
    return True


def _records(name: str, quick: bool, seed: int) -> Iterator[Record]:
    if name == GRADIENTS:
        return run_gradients(quick=quick, seed=seed, say=_say)
    return run_task(name, EXPERIMENTS[name], quick=quick, seed=seed, say=_say)


def _say(line: str) -> None:
    print(line, flush=True)

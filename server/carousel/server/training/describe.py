"""`python -m carousel.server.training.describe FORMAT < FILE`: what is in a dataset, as JSON."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from carousel.model.data import describe
from carousel.server.training.child import Object, answer
from carousel.server.training.process import DATA


def read(file: Path, kind: str) -> Object:
    """What a dataset's record keeps of its file. Raises DataError."""
    found = describe(file, kind)
    text = {"characters": found.rows, "lines": found.lines, "symbols": found.symbols}
    return {
        "rows": found.rows,
        "columns": [asdict(column) for column in found.columns],
        "text": text if kind == "text" else None,
    }


if __name__ == "__main__":
    answer(lambda: read(DATA, sys.argv[1]))

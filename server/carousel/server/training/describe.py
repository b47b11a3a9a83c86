"""`python -m carousel.server.training.describe FILE FORMAT`: what is in a dataset, as JSON."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from carousel.model.data import describe
from carousel.server.training.child import Object, answer


def main(file: str, kind: str) -> Object:
    found = describe(Path(file), kind)
    return {"rows": found.rows, "columns": [asdict(column) for column in found.columns]}


if __name__ == "__main__":
    answer(lambda: main(*sys.argv[1:]))

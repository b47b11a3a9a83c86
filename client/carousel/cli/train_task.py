"""What to learn from a file: the task that its name and the options point at."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

TASKS = ("text", "forecast", "classify", "tag")
_TABLES = (".csv", ".parquet", ".pq", ".jsonl", ".ndjson")


def guess(file: Path, given: Mapping[str, Any]) -> str:
    """The task, when `given["task"]` does not say it: text, forecast, classify or tag."""
    task = given.get("task")
    if task is not None:
        if task not in TASKS:
            raise typer.BadParameter(f"--task must be {', '.join(TASKS)}, got {task!r}")
        return str(task)
    if given.get("targets"):
        return "forecast"
    if given.get("label_column"):
        return "classify" if given.get("sequence_column") else "tag"
    suffix = file.suffix.lower()
    if suffix == ".npz":
        return _labels_of(file)
    if suffix in _TABLES:
        raise typer.BadParameter(
            f"a table needs --target COL to forecast, or --label COL to classify{_columns(file)}"
        )
    return "text"


def _labels_of(file: Path) -> str:
    """An archive with a label for each sequence, or for each step."""
    import numpy as np

    with np.load(file, allow_pickle=False) as arrays:
        if "x" not in arrays.files or "y" not in arrays.files:
            raise typer.BadParameter(f"{file} must hold x and y, it has {', '.join(arrays.files)}")
        labels = len(arrays["y"])
        if "starts" in arrays.files:
            return "classify" if labels == len(arrays["starts"]) - 1 else "tag"
        return "classify" if labels == len(arrays["x"]) and arrays["x"].ndim == 3 else "tag"


def _columns(file: Path) -> str:
    if file.suffix.lower() != ".csv" or not file.is_file():
        return ""
    with file.open(newline="", encoding="utf-8", errors="replace") as lines:
        header = next(csv.reader(lines), [])
    return f"; its columns are {', '.join(header)}" if header else ""

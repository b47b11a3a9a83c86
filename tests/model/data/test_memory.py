"""Files are prepared in memory that does not grow with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import pytest

ROWS, COLUMNS = {"csv": 175_000, "parquet": 700_000, "jsonl": 25_000}, 12
# The most that may be held at once, besides keys; far more than the files' pieces.
BOUND = {"csv": 38e6, "parquet": 52e6, "jsonl": 8e6, "text": 16e6}
# In a process of its own: its peak is of this file alone. Maps of files are not counted, since the
# system takes them back when it wants.
PREPARE = """
import sys, tracemalloc, json
import pyarrow as pa
from carousel.model.data import ForecastTask, LanguageModelTask, describe, prepare
path, format, folder, time = sys.argv[1:]
text = LanguageModelTask(document_separator="\\n\\n")
task = text if format == "text" else ForecastTask(targets=("c0",), time_column=time)
tracemalloc.start()
corpus = prepare(path, task, folder, format=format)
# The others are read as prepare reads them, and counting their values takes long.
if format in ("text", "parquet"):
    describe(path, format)
peak = tracemalloc.get_traced_memory()[1] + pa.default_memory_pool().max_memory()
print(json.dumps([len(corpus.steps), peak]))
"""


def peak_of(path: Path, format: str, time: str = "") -> tuple[int, int]:
    """Steps of the corpus, and the most bytes that were held at once."""
    arguments = [str(path), format, str(path.parent / "corpus"), time]
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, *arguments], capture_output=True, text=True, check=True
    )
    steps, peak = json.loads(done.stdout)
    return steps, peak


@pytest.mark.parametrize("kind", ROWS)
def test_a_table_need_not_fit_into_memory(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    count = ROWS[kind]
    order = random.permutation(count) if kind == "parquet" else np.arange(count)
    values = {f"c{i}": random.random(count) for i in range(COLUMNS)}
    table = pa.table({"time": order, **values})
    path = tmp_path / "data"
    if kind == "csv":
        pa_csv.write_csv(table, path)
    elif kind == "jsonl":
        with path.open("w") as file:
            for batch in table.to_batches(1 << 12):
                file.writelines(json.dumps(row) + "\n" for row in batch.to_pylist())
    else:
        pa_parquet.write_table(table, path, row_group_size=count, compression="none")
    steps, peak = peak_of(path, kind, "time")
    assert steps == count
    size = path.stat().st_size
    # What is sorted is in memory: the times and the places of the rows.
    keys = 16 * count if kind == "parquet" else 0
    assert peak < BOUND[kind] + keys < size


def test_a_text_need_not_fit_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with path.open("w") as file:
        for i in range(180):
            file.write(f"{i} " + "the quick brown fox jumps over the lazy dog\n" * 2500 + "\n")
    steps, peak = peak_of(path, "text")
    assert steps == path.stat().st_size
    assert peak < BOUND["text"] < steps

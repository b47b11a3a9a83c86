"""Files of any size, written piece by piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet

COLUMNS = 40
ROWS = 1 << 17  # of a row group
WORDS = 20_000


def write_text(path: Path, size: int) -> None:
    """So many bytes of words, in lines; the words are as frequent as words are (Zipf)."""
    random = np.random.default_rng(1)
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", np.uint8)
    chances = 1 / np.arange(1, len(letters) + 1)
    lengths = random.integers(2, 11, WORDS)
    drawn = random.choice(letters, lengths.sum(), p=chances / chances.sum()).tobytes().decode()
    ends = np.cumsum(lengths)
    words = np.array([drawn[end - n : end] for n, end in zip(lengths, ends, strict=True)])
    words[::12] += "\n"
    written = 0
    with path.open("w", encoding="ascii") as file:
        while written < size:
            numbers = np.minimum(random.zipf(1.3, 1 << 18), WORDS) - 1
            text = " ".join(words[numbers].tolist())[: size - written]
            written += file.write(text)


def write_parquet(path: Path, size: int) -> None:
    """Rows of a time and 40 numbers that wander, float64 and so random that nothing packs them."""
    random = np.random.default_rng(2)
    names = [f"v{i}" for i in range(COLUMNS)]
    fields = [("time", pa.timestamp("us")), *((name, pa.float64()) for name in names)]
    schema = pa.schema(fields)
    at = np.zeros(COLUMNS)
    begin = 0
    with pa_parquet.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
        while path.stat().st_size < size:
            steps = random.standard_normal((ROWS, COLUMNS)) - 0.0
            walk = at + np.cumsum(steps, axis=0)
            at = walk[-1] * 0.9
            seconds = np.arange(begin, begin + ROWS) * 1_000_000
            columns = [pa.array(seconds).cast(fields[0][1])]
            columns += [pa.array(walk[:, i]) for i in range(COLUMNS)]
            file.write_table(pa.table(columns, schema=schema))
            begin += ROWS

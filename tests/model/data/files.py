"""Small files to learn from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet


def write_csv(
    folder: Path, columns: Mapping[str, Sequence[object]], name: str = "data.csv"
) -> Path:
    lines = [",".join(columns)]
    lines += [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def write_json_lines(folder: Path, columns: Mapping[str, Sequence[object]]) -> Path:
    """An object a line; of an empty cell the key is left out, of a NaN there is null."""
    lines = []
    for row in zip(*columns.values(), strict=True):
        found = {name: value for name, value in zip(columns, row, strict=True) if value != ""}
        lines.append(json.dumps({k: None if v != v else v for k, v in found.items()}))
    path = folder / "data.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_parquet(folder: Path, columns: Mapping[str, object]) -> Path:
    path = folder / "data.parquet"
    pa_parquet.write_table(pa.table(dict(columns)), path)
    return path


def waves(count: int, seed: int = 0) -> dict[str, list[object]]:
    """A series of `count` hours: a wave with noise, and what it follows."""
    random = np.random.default_rng(seed)
    time = np.arange(count)
    feature = np.sin(time / 7) + 0.1 * random.normal(size=count)
    return {
        "time": [f"2024-{1 + t // 672:02d}-{1 + t // 24 % 28:02d} {t % 24:02d}:00" for t in time],
        "load": (feature * 3 + random.normal(size=count)).round(4).tolist(),
        "wind": feature.round(4).tolist(),
    }

"""Descriptions are the statistics of numpy; files that cannot be read are refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.model.data.files import write_csv, write_parquet

from carousel.model.data import ColumnStatistics, DataError, Description, describe
from carousel.model.data import tables as tables_module


def by_name(description: Description) -> dict[str, ColumnStatistics]:
    return {column.name: column for column in description.columns}


COUNT = 500
RANDOM = np.random.default_rng(0)
VALUES = RANDOM.normal(5, 2, COUNT).round(3)


def test_a_table_s_columns_have_their_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables_module.ONE_THREAD, "block_size", 1000)
    values: list[object] = VALUES.tolist()
    values[3] = values[77] = ""
    columns: dict[str, list[Any]] = {
        "day": [f"2024-01-{1 + i % 28:02d}" for i in range(COUNT)],
        "value": values,
        "count": list(range(COUNT)),
        "late": [*range(COUNT - 1), 0.5],
        "odd": [*range(COUNT - 1), "none of it"],
        "city": ["Oslo", "Bergen"] * (COUNT // 2),
        "nothing": [""] * COUNT,
    }
    description = describe(write_csv(tmp_path, columns), "csv")
    assert description.rows == COUNT
    found = by_name(description)
    assert {name: column.type for name, column in found.items()} == {
        "day": "timestamp[us]",
        "value": "float64",
        "count": "int64",
        "late": "float64",
        "odd": "string",
        "city": "string",
        "nothing": "string",
    }
    known = np.delete(VALUES, [3, 77])
    value = found["value"]
    assert (value.missing, value.distinct) == (2, len(np.unique(known)))
    assert (value.minimum, value.maximum) == (known.min(), known.max())
    assert value.mean == pytest.approx(known.mean(), rel=1e-12)
    assert value.std == pytest.approx(known.std(), rel=1e-12)
    assert found["city"] == ColumnStatistics(name="city", type="string", missing=0, distinct=2)
    assert found["odd"].mean is None
    assert (found["nothing"].missing, found["nothing"].distinct) == (COUNT, 0)


def test_parquet_has_the_types_of_its_file(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[3] = math.nan
    columns = {
        "day": np.datetime64("2024-01-01") + np.arange(COUNT),
        "value": values.astype(np.float32),
        "flag": VALUES > 5,
    }
    found = by_name(describe(write_parquet(tmp_path, columns), "parquet"))
    assert {name: column.type for name, column in found.items()} == {
        "day": "date32[day]",
        "value": "float32",
        "flag": "bool",
    }
    assert (found["value"].missing, found["flag"].distinct) == (1, 2)
    assert found["flag"].mean == pytest.approx((VALUES > 5).mean())
    assert found["value"].distinct == len(np.unique(values.astype(np.float32))) - 1


def test_different_values_are_counted_up_to_ten_thousand(tmp_path: Path) -> None:
    columns = {"id": np.arange(150_000), "part": np.arange(150_000) % 9_999}
    found = by_name(describe(write_parquet(tmp_path, columns), "parquet"))
    assert (found["id"].distinct, found["part"].distinct) == (10_000, 9_999)


def test_an_archive_has_its_arrays(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=VALUES.reshape(50, 5, 2), y=np.array(["a", "b"] * 25))
    description = describe(path, "npz")
    assert description.rows == 250
    found = by_name(description)
    assert found["x"].mean == pytest.approx(VALUES.mean(), rel=1e-12)
    assert (found["y"].type, found["y"].distinct) == ("string", 2)


def test_json_lines_are_a_table(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    lines = ['\ufeff{"n": 1, "word": "a"}', '{"n": "2.5", "word": null}', "", '{"late": true}']
    path.write_text("\n".join(lines))
    description = describe(path, "jsonl")
    assert description.rows == 3
    found = by_name(description)
    assert list(found) == ["n", "word", "late"]
    assert (found["n"].type, found["n"].missing, found["n"].mean) == ("float64", 1, 1.75)
    assert (found["word"].type, found["word"].missing) == ("string", 2)
    assert (found["late"].type, found["late"].missing) == ("string", 2)


def test_a_text_has_characters_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("één\ntwee\n\nvier")
    assert describe(path, "text") == Description(format="text", rows=14, lines=4, symbols=9)


@pytest.mark.parametrize(
    ("format", "content", "message"),
    [
        ("text", b"", "the text is empty"),
        ("text", b"ab\xff", "row 1: byte 0xff is not UTF-8"),
        ("csv", b"a,b\n1,2\n3\n", "row 2: the file is not csv: .*Expected 2 columns, got 1"),
        ("csv", b"a,b\n", "no rows"),
        ("csv", "a,b\n1,2\n".encode("utf-16"), "the file is UTF-16: save it as UTF-8"),
        ("csv", b"a,\xff\n1,2\n", "the file is not csv: it is not UTF-8"),
        ("csv", b"a,b\n1,2\n3,1e300\n", r"row 2, column 'b': .* of float32, got 1e\+300"),
        ("parquet", b"PAR1", "the file is not parquet"),
        ("jsonl", b"\n\n", "no rows"),
        ("jsonl", b"{}\n{}\n", "no rows"),
        ("jsonl", b'{"a": 1}\n\n{"a": 1\n', "row 2: the line is not JSON: "),
        ("jsonl", b'{"a": 1}\n[1, 2]\n', r"row 2: a line must be an object, .* got '\[1, 2\]'"),
        (
            "jsonl",
            b'{"a": 1}\n{"a": [2]}\n',
            "row 2, column 'a': .*true, false or null, got a list",
        ),
        ("jsonl", b'{"a": {"b": 2}}\n', "row 1, column 'a': .* got an object"),
        ("jsonl", b'{"a": "\\ud800"}\n', "row 1, column 'a': half of a surrogate pair"),
        ("jsonl", b'{"a": "\xff"}\n', "row 1: byte 0xff is not UTF-8"),
        ("jsonl", b"[" * 100_000, "row 1: the line is not JSON: "),
        ("npz", b"PK", "the file is no NumPy archive"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, format: str, content: bytes, message: str
) -> None:
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(DataError, match=message):
        describe(tmp_path / "data", format)


def test_a_parquet_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        describe(write_parquet(tmp_path, {"a": np.array([], float)}), "parquet")

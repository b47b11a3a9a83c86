"""What files hold that nobody thought of: they are read as they are meant, or refused in words."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.model.data.files import write_csv, write_json_lines, write_parquet

from carousel.model.data import ClassifyTask, DataError, ForecastTask, describe, prepare

COUNT = 60
LOAD = np.sin(np.arange(COUNT)).tolist()
BY_TIME = ForecastTask(targets=("load",), time_column="time")
BY_GROUP = ForecastTask(targets=("load",), group_column="group")
X, Y = np.random.default_rng(1).normal(size=(COUNT, 5, 2)), np.arange(COUNT) % 3


def archive(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def labelled(folder: Path, labels: list[str]) -> Path:
    rows: dict[str, Any] = {
        "id": np.arange(COUNT) // 2,
        "x": np.arange(COUNT) % 7,
        "label": [labels[i // 2 % len(labels)] for i in range(COUNT)],
    }
    return write_csv(folder, rows)


@pytest.mark.parametrize("write", [write_csv, write_parquet, write_json_lines])
def test_nanoseconds_are_told_apart(tmp_path: Path, write: Any) -> None:
    begin = 1_700_000_000_000_000_000
    order = np.random.default_rng(0).permutation(COUNT)
    table = {"time": [begin + int(i) for i in order], "load": [LOAD[i] for i in order]}
    corpus = prepare(write(tmp_path, table), BY_TIME, tmp_path / "corpus")
    assert corpus.steps[:, 0].tolist() == np.float32(LOAD).tolist()


def test_groups_that_are_written_as_large_floats_stay_apart(tmp_path: Path) -> None:
    groups = [1_234_567.0 + i // 20 for i in range(COUNT)]
    path = write_parquet(tmp_path, {"load": LOAD, "group": groups})
    assert prepare(path, BY_GROUP, tmp_path / "corpus").starts.tolist() == [0, 20, 40, 60]


@pytest.mark.parametrize(("split", "begin", "end"), [("validation", 48, 54), ("test", 54, 60)])
def test_a_target_is_held_against_something(
    tmp_path: Path, split: str, begin: int, end: int
) -> None:
    dead = ["" if begin <= i < end else value for i, value in enumerate(LOAD)]
    path = write_csv(tmp_path, {"load": LOAD, "other": dead})
    task = ForecastTask(targets=("load", "other"))
    with pytest.raises(DataError, match=f"no value in the {split} part") as refused:
        prepare(path, task, tmp_path / "corpus")
    assert refused.value.column == "other"
    dead[begin] = 1.0
    prepare(write_csv(tmp_path, {"load": LOAD, "other": dead}), task, tmp_path / "corpus")


@pytest.mark.parametrize(
    ("task", "column", "message"),
    [(BY_TIME, "time", "a time is missing"), (BY_GROUP, "group", "a value is missing")],
)
def test_nan_is_no_time_and_no_name(
    tmp_path: Path, task: ForecastTask, column: str, message: str
) -> None:
    values = [math.nan if i == 7 else float(i // 20 if column == "group" else i) for i in range(60)]
    path = write_parquet(tmp_path, {"load": LOAD, column: pa.array(values, from_pandas=False)})
    with pytest.raises(DataError, match=message) as refused:
        prepare(path, task, tmp_path / "corpus")
    assert (refused.value.row, refused.value.column) == (8, column)


@pytest.mark.parametrize("value", [[1], {"a": 1}, b"\xff"], ids=["list", "struct", "bytes"])
def test_a_group_must_have_a_name(tmp_path: Path, value: object) -> None:
    path = write_parquet(tmp_path, {"load": LOAD, "group": [value] * COUNT})
    with pytest.raises(DataError, match="is not a type of names or labels") as refused:
        prepare(path, BY_GROUP, tmp_path / "corpus")
    assert refused.value.column == "group"


def test_bytes_are_labels_as_they_read(tmp_path: Path) -> None:
    labels = [b"yes" if i // 2 % 2 else b"no" for i in range(COUNT)]
    table = {"id": np.arange(COUNT) // 2, "x": np.arange(COUNT) % 7, "label": labels}
    task = ClassifyTask(label_column="label", sequence_column="id")
    corpus = prepare(write_parquet(tmp_path, table), task, tmp_path / "corpus")
    assert corpus.labels == ("no", "yes")


@pytest.mark.parametrize(
    "labels", [["10", "9"], ["²", "³"], ["1" * 5000, "2"]], ids=["whole", "powers", "long"]
)
def test_what_looks_like_a_number_is_a_label(tmp_path: Path, labels: list[str]) -> None:
    task = ClassifyTask(label_column="label", sequence_column="id")
    corpus = prepare(labelled(tmp_path, labels), task, tmp_path / "corpus")
    assert corpus.labels == (("9", "10") if "9" in labels else tuple(labels))


def test_a_type_of_its_own_is_described_as_what_it_is_stored_as(tmp_path: Path) -> None:
    keys = pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([i.to_bytes(16) for i in range(COUNT)], pa.binary(16))
    )
    found = describe(write_parquet(tmp_path, {"load": LOAD, "key": keys}), "parquet")
    assert [column.distinct for column in found.columns] == [COUNT, COUNT]


def test_a_table_without_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no columns"):
        describe(write_parquet(tmp_path, {}), "parquet")


def test_half_a_character_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"load": 1}) + "\n" + json.dumps({"\ud800": 1}) + "\n")
    with pytest.raises(DataError, match="no character") as refused:
        describe(path, "jsonl")
    assert refused.value.row == 2


def test_an_archive_may_have_a_number_more_and_foreign_bytes(tmp_path: Path) -> None:
    plain = prepare(archive(tmp_path, x=X, y=Y), ClassifyTask(), tmp_path / "plain")
    path = archive(tmp_path, x=X.astype(">f8"), y=Y.astype(">i4"), rate=16_000)
    found = {column.name: column for column in describe(path, "npz").columns}
    assert found["rate"].mean == 16_000
    assert found["x"].mean == pytest.approx(X.mean())
    assert found["y"].maximum == 2
    assert np.array_equal(prepare(path, ClassifyTask(), tmp_path / "foreign").steps, plain.steps)


def points(*found: int) -> Any:
    return np.array(found, "<u4").view("<U1")[np.arange(COUNT) % len(found)]


@pytest.mark.parametrize(
    ("arrays", "row", "column", "message"),
    [
        ({"x": X.astype(np.longdouble), "y": Y}, None, "x", "must have numbers or text"),
        ({"x": X, "y": points(65, 66, 0xD800)}, 3, "y", r"U\+D800, which is no character"),
        ({"x": X, "y": points(65, 0x110000)}, 2, "y", r"U\+110000, which is no character"),
    ],
)
def test_an_archive_of_what_is_nothing_is_refused(
    tmp_path: Path, arrays: dict[str, Any], row: int | None, column: str, message: str
) -> None:
    path = archive(tmp_path, **arrays)
    for read in (
        lambda: describe(path, "npz"),
        lambda: prepare(path, ClassifyTask(), tmp_path / "corpus"),
    ):
        with pytest.raises(DataError, match=message) as refused:
            read()
        assert (refused.value.row, refused.value.column) == (row, column)


@pytest.mark.parametrize("name", ["y", "starts"])
def test_one_number_is_neither_labels_nor_starts(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path, **{"x": X.reshape(-1, 2), "y": Y, name: 3})
    with pytest.raises(DataError, match=r"must be whole numbers|2 to 8192 different labels"):
        prepare(path, ClassifyTask(), tmp_path / "corpus")

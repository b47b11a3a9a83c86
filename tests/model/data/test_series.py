"""Tables become series cut by time; what cannot be learned from is refused with row and column."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.model.data.files import waves, write_csv, write_json_lines, write_parquet

from carousel.model import Linear, Normalization
from carousel.model.data import DataError, ForecastTask, prepare
from carousel.model.data import json_lines as json_lines_module
from carousel.model.data import rows as rows_module
from carousel.model.data import segments as segments_module
from carousel.model.data import series as series_module
from carousel.model.data import statistics as statistics_module
from carousel.model.data import tables as tables_module

LOAD = ForecastTask(targets=("load",))
WRITERS: dict[str, Callable[[Path, Any], Path]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "jsonl": write_json_lines,
}


def groups(count: int = 120) -> dict[str, list[Any]]:
    """Two series of unlike length, one after the other."""
    first, second = waves(count, seed=1), waves(count // 2, seed=2)
    joined: dict[str, list[Any]] = {name: first[name] + second[name] for name in first}
    joined["city"] = ["Oslo"] * count + ["Bergen"] * (count // 2)
    return joined


def shuffled(columns: dict[str, list[Any]], seed: int = 3) -> dict[str, list[Any]]:
    order = np.random.default_rng(seed).permutation(len(columns["load"]))
    return {name: [values[i] for i in order] for name, values in columns.items()}


def test_steps_are_the_table_targets_first(tmp_path: Path) -> None:
    table = waves(100)
    corpus = prepare(write_csv(tmp_path, table), LOAD, tmp_path / "corpus")
    assert corpus.inputs == ("load", "wind")
    assert np.array_equal(corpus.steps, np.array([table["load"], table["wind"]], np.float32).T)
    assert corpus.targets is not None
    assert np.array_equal(corpus.targets, corpus.steps[:, :1])
    assert corpus.present is None
    assert corpus.starts.tolist() == [0, 100]
    assert {split: s.tolist() for split, s in corpus.segments.items()} == {
        "train": [[0, 0, 80]],
        "validation": [[0, 80, 90]],
        "test": [[0, 90, 100]],
    }


def test_statistics_are_of_the_training_part_alone(tmp_path: Path) -> None:
    table = waves(100)
    path = write_csv(tmp_path, table)
    task = ForecastTask(targets=("load",), horizon=3)
    corpus = prepare(path, task, tmp_path / "a")
    train = corpus.steps[:80].astype(np.float64)
    assert corpus.normalization is not None
    assert corpus.normalization.mean == pytest.approx(train.mean(axis=0), rel=1e-12)
    assert corpus.normalization.std == pytest.approx(train.std(axis=0), rel=1e-12)
    config = corpus.model_config({"cell": "gru"})
    assert (config.hidden_size, config.layers) == (64, 2)

    table["load"][90] = 1e6
    planted = prepare(write_csv(tmp_path, table), task, tmp_path / "b")
    assert planted.steps[90, 0] == 1e6
    assert planted.normalization == corpus.normalization
    assert planted.digest != corpus.digest


def test_a_series_that_wanders_is_predicted_from_where_it_is(tmp_path: Path) -> None:
    task = ForecastTask(targets=("load",), horizon=3)
    random = np.random.default_rng(5).normal(size=200)
    for name, load, residual in (("walk", random.cumsum(), True), ("noise", random, False)):
        table: dict[str, list[Any]] = {"load": load.tolist()}
        corpus = prepare(write_csv(tmp_path, table), task, tmp_path / name)
        train = corpus.steps[:160, 0].astype(np.float64)
        changes = [train[ahead:] - train[:-ahead] for ahead in (1, 2, 3)]
        wanted = Normalization((train.mean(),) * 3, (train.std(),) * 3)
        if residual:
            spread = math.sqrt(np.mean([change.var() for change in changes]))
            wanted = Normalization(tuple(c.mean() for c in changes), (spread,) * 3)
        assert corpus.output_normalization is not None
        assert corpus.output_normalization.mean == pytest.approx(wanted.mean, rel=1e-9)
        assert corpus.output_normalization.std == pytest.approx(wanted.std, rel=1e-9)
        assert corpus.model_config({}).head == Linear(
            3, residual=1 if residual else 0, targets=("load",)
        )


@pytest.mark.parametrize("time", ["time", ""])
def test_order_of_rows_in_the_file_does_not_matter_with_a_time(tmp_path: Path, time: str) -> None:
    table = groups()
    task = ForecastTask(
        targets=("load",), features=("wind",), time_column=time, group_column="city"
    )
    sorted_ = prepare(write_csv(tmp_path, table), task, tmp_path / "a")
    # Without a time the rows of a group must be in order, but groups may be mixed.
    mixed = (
        shuffled(table)
        if time
        else {
            name: [v for i in range(60) for v in (values[i], values[120 + i])] + values[60:120]
            for name, values in table.items()
        }
    )
    other = prepare(write_csv(tmp_path, mixed), task, tmp_path / "b")
    for corpus in (sorted_, other):
        assert sorted(np.diff(corpus.starts).tolist()) == [60, 120]

    def series(corpus: Any) -> set[bytes]:
        edges = zip(corpus.starts[:-1], corpus.starts[1:], strict=True)
        return {corpus.steps[a:b].tobytes() for a, b in edges}

    assert series(sorted_) == series(other)
    assert other.normalization is not None
    assert sorted_.normalization is not None
    assert other.normalization.mean == pytest.approx(sorted_.normalization.mean, rel=1e-12)


def test_all_series_are_cut_at_the_same_moment(tmp_path: Path) -> None:
    table = groups()
    task = ForecastTask(targets=("load",), time_column="time", group_column="city")
    corpus = prepare(write_csv(tmp_path, table), task, tmp_path / "corpus")
    every = sorted(table["time"])
    moments = [every[round(180 * edge)] for edge in (0.8, 0.9)]
    for s, city in enumerate(("Oslo", "Bergen")):
        times = [t for t, c in zip(table["time"], table["city"], strict=True) if c == city]
        cuts = [int(corpus.starts[s]) + sum(t < moment for t in times) for moment in moments]
        edges = [int(corpus.starts[s]), *cuts, int(corpus.starts[s + 1])]
        for i, split in enumerate(("train", "validation", "test")):
            inside = corpus.segments[split]
            inside = inside[(inside[:, 2] > edges[0]) & (inside[:, 2] <= edges[3])]
            expected = [[edges[i], edges[i + 1]]] if edges[i] < edges[i + 1] else []
            assert inside[:, 1:].tolist() == expected


def test_of_many_rows_some_say_at_which_moment_all_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series_module, "SAMPLE", 45)
    cities, hours = ("Oslo", "Bergen", "Voss"), range(120)
    table: dict[str, list[Any]] = {
        "city": [city for city in cities for _ in hours],
        "time": [hour * (2 + s) for s in range(3) for hour in hours],
        "load": [math.sin(hour) for _ in cities for hour in hours],
    }
    task = ForecastTask(targets=("load",), time_column="time", group_column="city")
    corpus = prepare(write_csv(tmp_path, table), task, tmp_path / "corpus")
    times = np.array(table["time"])
    inside = {
        split: np.concatenate([times[a:b] for _, a, b in corpus.segments[split]])
        for split in ("train", "validation", "test")
    }
    assert inside["train"].max() < inside["validation"].min()
    assert inside["validation"].max() < inside["test"].min()
    assert len(inside["train"]) / 360 == pytest.approx(0.8, abs=0.03)


def test_missing_values_are_filled_from_the_past_and_count_in_no_loss(tmp_path: Path) -> None:
    table = groups()
    random = np.random.default_rng(5)
    for name in ("load", "wind"):
        for i in random.choice(180, 40, replace=False):
            table[name][i] = ["", "NA", "nan"][i % 3]
    table["load"][0] = table["load"][1] = ""
    task = ForecastTask(targets=("load",), group_column="city", features=("wind",))
    corpus = prepare(write_csv(tmp_path, table), task, tmp_path / "corpus")
    raw = np.array(
        [[float(v) if isinstance(v, float) else math.nan for v in table[n]] for n in corpus.inputs]
    ).T
    train = np.concatenate([raw[begin:end] for begin, _, end in corpus.segments["train"]])
    means = np.nanmean(train.astype(np.float32).astype(np.float64), axis=0)
    assert corpus.normalization is not None
    assert corpus.normalization.mean == pytest.approx(means, rel=1e-9)
    expected = raw.copy()
    for i in range(180):
        gaps = np.isnan(expected[i])
        expected[i, gaps] = means[gaps] if i in corpus.starts else expected[i - 1, gaps]
    assert np.allclose(corpus.steps, expected, rtol=1e-6)
    assert corpus.present is not None
    assert np.array_equal(corpus.present, ~np.isnan(raw[:, :1]))


@pytest.mark.parametrize("format", WRITERS)
def test_small_pieces_make_the_same_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    table = shuffled(groups())
    table["wind"][7] = table["load"][11] = math.nan
    path = WRITERS[format](tmp_path, table)
    task = ForecastTask(targets=("load",), time_column="time", group_column="city")
    whole = prepare(path, task, tmp_path / "whole")
    monkeypatch.setattr(tables_module, "ROWS", 7)
    monkeypatch.setattr(tables_module.ONE_THREAD, "block_size", 300)
    monkeypatch.setattr(json_lines_module, "ROWS", 5)
    monkeypatch.setattr(rows_module, "CHUNK", 11)
    monkeypatch.setattr(statistics_module, "CHUNK", 13)
    pieces = prepare(path, task, tmp_path / "pieces")
    assert np.array_equal(whole.steps, pieces.steps)
    assert np.array_equal(whole.starts, pieces.starts)
    assert whole.normalization is not None
    assert pieces.normalization is not None
    assert whole.normalization.std == pytest.approx(pieces.normalization.std, rel=1e-12)


def test_parquet_and_csv_of_the_same_table_are_the_same_corpus(tmp_path: Path) -> None:
    table = groups()
    task = ForecastTask(targets=("load", "wind"), time_column="time", group_column="city")
    csv = prepare(write_csv(tmp_path, table), task, tmp_path / "csv")
    times = np.array(table["time"], "datetime64[s]")
    parquet = prepare(write_parquet(tmp_path, table | {"time": times}), task, tmp_path / "parquet")
    assert csv.digest == parquet.digest


def test_json_lines_and_csv_of_the_same_table_are_the_same_corpus(tmp_path: Path) -> None:
    table: dict[str, Any] = groups()
    table["wind"][3] = ""  # in one file an empty cell, in the other a key that is not there
    task = ForecastTask(targets=("load", "wind"), time_column="time", group_column="city")
    csv = prepare(write_csv(tmp_path, table), task, tmp_path / "csv")
    lines = prepare(write_json_lines(tmp_path, table), task, tmp_path / "lines")
    assert csv.digest == lines.digest


def test_a_wrong_value_of_json_lines_is_refused_with_row_and_column(tmp_path: Path) -> None:
    path = write_json_lines(tmp_path, edited("wind", 5, "strong"))
    with pytest.raises(DataError, match="row 5, column 'wind': 'strong' is not a number"):
        prepare(path, CITY, tmp_path / "corpus")


def edited(name: str, row: int, value: object) -> dict[str, list[Any]]:
    table = groups()
    table[name][row - 1] = value
    return table


CITY = ForecastTask(targets=("load",), features=("wind",), time_column="time", group_column="city")


@pytest.mark.parametrize(
    ("table", "task", "row", "column", "message"),
    [
        (edited("load", 7, "much"), CITY, 7, "load", "'much' is not a number"),
        (edited("wind", 170, "1,5"), CITY, None, None, "Expected 4 columns, got 5"),
        (edited("wind", 170, '"1,5"'), CITY, 170, "wind", "'1,5' is not a number"),
        (edited("load", 3, "inf"), CITY, 3, "load", "must be finite"),
        (edited("load", 3, "-Infinity"), CITY, 3, "load", "must be finite"),
        (edited("load", 3, "1e39"), CITY, 3, "load", "at most 3.4e38, got 1e+39"),
        (edited("city", 9, ""), CITY, 9, "city", "a value is missing"),
        (edited("time", 9, "NA"), CITY, 9, "time", "a time is missing"),
        (edited("time", 1, "5/1/2024"), CITY, 1, "time", "'5/1/2024' is no time"),
        (edited("time", 9, "noon"), CITY, 9, "time", "'noon' is no time like the ones before"),
        (
            edited("time", 9, "2024-01-01 07:00"),
            CITY,
            9,
            "time",
            "the time of row 8 again: rows of one city must have different times",
        ),
        (groups() | {"wind": [2] * 180}, CITY, None, "wind", "the value is always 2"),
        (groups() | {"load": [""] * 180}, CITY, None, "load", "there is no value"),
        (
            groups(),
            ForecastTask(targets=("laod",)),
            None,
            "laod",
            "there is no column 'laod': there are time, load, wind, city",
        ),
        (groups(), ForecastTask(targets=("city",)), 1, "city", "'Oslo' is not a number"),
        (
            edited("city", 180, "Voss"),
            CITY,
            180,
            None,
            "city 'Voss' has 1 row",
        ),
        (
            {name: values[:12] for name, values in groups().items()},
            ForecastTask(targets=("load",), horizon=11),
            None,
            None,
            "12 rows are too few to learn a horizon of 11",
        ),
        (
            {name: values[:4] for name, values in groups().items()},
            LOAD,
            None,
            None,
            "4 rows are too few: nothing is left for the test part",
        ),
        ({name: [] for name in groups()}, LOAD, None, None, "there are no rows"),
    ],
)
def test_bad_tables_are_refused_with_row_and_column(
    tmp_path: Path,
    table: dict[str, list[Any]],
    task: ForecastTask,
    row: int | None,
    column: str | None,
    message: str,
) -> None:
    with pytest.raises(DataError) as refused:
        prepare(write_csv(tmp_path, table), task, tmp_path / "corpus")
    error = refused.value
    assert message in str(error)
    assert error.column == column
    assert error.row == row or message.startswith("Expected")
    assert row is None or f"row {row}" in str(error)
    assert column is None or f"column {column!r}" in str(error)


@pytest.mark.parametrize(
    ("content", "row", "message"),
    [
        (b"", None, "Empty CSV file"),
        (b"load,wind\n", None, "no rows"),
        (b"load,load\n1,2\n", None, "two columns have the name 'load'"),
        (b"1.5,2.5\n1,2\n", None, "the first line must have the names"),
        (b"load,wind\n1,2\n3\n4,5\n", 2, "Expected 2 columns, got 1"),
        (b"load,wind\n1,2\n3,\xff\n", 2, "invalid UTF8"),
    ],
)
def test_files_that_are_no_table_are_refused(
    tmp_path: Path, content: bytes, row: int | None, message: str
) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as refused:
        prepare(path, LOAD, tmp_path / "corpus")
    assert refused.value.row == row


@pytest.mark.parametrize("damage", ["torn", "foreign", "absent"])
def test_damaged_parquet_is_refused(tmp_path: Path, damage: str) -> None:
    path = write_parquet(tmp_path, {"load": np.arange(50.0)})
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "foreign":
        path.write_bytes(b"load\n1\n2\n")
    else:
        path.unlink()
    with pytest.raises(DataError, match=r"the file (is not parquet|cannot be read)"):
        prepare(path, LOAD, tmp_path / "corpus")
    assert not (tmp_path / "corpus" / "corpus.json").exists()


def test_every_column_of_numbers_is_a_feature_and_only_those(tmp_path: Path) -> None:
    count = 40
    columns: dict[str, object] = {
        "whole": np.arange(count),
        "name": [f"n{i}" for i in range(count)],
        "load": np.arange(count) / 3,
        "flag": np.arange(count) % 2 == 0,
        "day": np.datetime64("2024-01-01") + np.arange(count),
        "code": np.arange(count).astype(np.int8),
    }
    corpus = prepare(write_parquet(tmp_path, columns), LOAD, tmp_path / "corpus")
    assert corpus.inputs == ("load", "whole", "flag", "code")
    assert corpus.steps[:3, 2].tolist() == [1, 0, 1]


def test_no_more_is_held_out_than_is_of_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_module, "MOST_VALIDATION", 7)
    monkeypatch.setattr(segments_module, "MOST_TEST", 15)
    corpus = prepare(write_csv(tmp_path, waves(400)), LOAD, tmp_path / "corpus")
    held_out = {split: int((s[:, 2] - s[:, 1]).sum()) for split, s in corpus.segments.items()}
    assert held_out == {"train": 378, "validation": 7, "test": 15}
    small = prepare(write_csv(tmp_path, waves(50)), LOAD, tmp_path / "small")
    assert len(small.segments["test"]) == 1
    assert small.segments["test"][0].tolist()[1:] == [45, 50]

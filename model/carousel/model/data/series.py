"""Tables of series to a corpus for forecasts, cut by time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from carousel.model.config import MAX_SIZE, Normalization
from carousel.model.data.corpus import Array, Corpus, CorpusWriter
from carousel.model.data.rows import CHUNK, Rows, read_rows
from carousel.model.data.segments import bounded, check_filled, cut_at_shares, cut_sequences, shares
from carousel.model.data.statistics import changes_of, fill_missing, normalization_of
from carousel.model.data.tables import Table
from carousel.model.data.tasks import ForecastTask
from carousel.model.errors import DataError

# Rows by whose times the moments are found at which series are cut.
SAMPLE = 1 << 20


def prepare_series(
    path: Path | str,
    task: ForecastTask,
    folder: Path | str,
    *,
    format: str,
    validation_share: float = 0.1,
    test_share: float = 0.1,
) -> Corpus:
    """The corpus of a CSV or Parquet file: steps [N, targets then features].

    With a time column all series are cut at the same moments, else each at the same shares of its
    rows. Raises DataError for data that cannot be learned from.
    """
    edges = shares(validation_share, test_share)
    table = Table(path, format)
    special = [column for column in (task.time_column, task.group_column) if column]
    table.check_columns([*task.targets, *task.features, *special])
    features = task.features or table.of_kind("number", but=[*task.targets, *special])
    columns = (*task.targets, *features)
    if len(columns) > MAX_SIZE:
        raise DataError(f"targets and features must be at most {MAX_SIZE}, got {len(columns)}")
    writer = CorpusWriter(folder)
    rows = read_rows(
        table, writer, columns, group=task.group_column, time=task.time_column, coded={}
    )
    _check_lengths(rows, task)
    edges = bounded(edges, int(rows.starts[-1]))
    cuts = (
        _cut_at_moments(writer.map("time"), rows.starts, edges)
        if task.time_column
        else cut_at_shares(rows.starts, edges)
    )
    segments = cut_sequences(rows.starts, cuts)
    count = int(rows.starts[-1])
    check_filled(segments, edges, count)
    if np.diff(segments["train"][:, 1:]).max() <= task.horizon:
        raise DataError(f"{count} rows are too few to learn a horizon of {task.horizon}")
    inward = normalization_of(writer.map("steps"), segments["train"], columns)
    for split in ("validation", "test"):
        _check_targets(writer.map("steps"), segments[split], split, task)
    if rows.missing.any():
        fill_missing(writer, rows.starts, inward.mean, len(task.targets))
    writer.drop("time")
    writer.append("starts", rows.starts)
    size = len(task.targets)
    outward = Normalization(inward.mean[:size] * task.horizon, inward.std[:size] * task.horizon)
    change = changes_of(writer.map("steps"), segments["train"], size, task.horizon)
    # Where the present value says more about the next ones than the mean does, start from it.
    residual = change is not None and sum(change.std) < sum(outward.std)
    return writer.seal(
        task,
        segments,
        inputs=columns,
        normalization=inward,
        output_normalization=change if residual else outward,
        horizon=task.horizon,
        season=task.season,
        residual=residual,
    )


def _check_lengths(rows: Rows, task: ForecastTask) -> None:
    lengths = np.diff(rows.starts)
    if lengths.min() <= task.horizon:
        short = int(lengths.argmin())
        which = (
            f"{task.group_column} {rows.names[short]!r} has" if task.group_column else "there is"
        )
        raise DataError(
            f"{which} {lengths[short]} row(s): a series must have at least {task.horizon + 1} "
            f"for a horizon of {task.horizon}",
            row=rows.row(int(rows.starts[short])),
        )


def _check_targets(steps: Array, segments: Array, split: str, task: ForecastTask) -> None:
    """Raise DataError for a target without a value in a part: its errors would be none, and 0."""
    here = np.zeros(len(task.targets), bool)
    for _, scored, end in segments.tolist():
        for i in range(scored, end, CHUNK):
            here |= (~np.isnan(steps[i : min(end, i + CHUNK), : len(here)])).any(axis=0)
            if here.all():
                return
    if len(segments):
        column = task.targets[int(np.argmin(here))]
        raise DataError(f"there is no value in the {split} part", column=column)


def _cut_at_moments(times: Array, starts: Array, edges: tuple[float, float]) -> Array:
    """Cuts [S, 2]: before them lies in each series what is earlier than the moment."""
    # Of many rows some say where a share of all of them lies, and fit into memory.
    some = times if len(starts) == 2 else times[:: max(1, len(times) // SAMPLE)]
    places = [min(round(len(some) * edge), len(some) - 1) for edge in edges]
    ordered = some if len(starts) == 2 else np.partition(some, places)
    cuts = np.empty((len(starts) - 1, 2), np.int64)
    for i, (place, edge) in enumerate(zip(places, edges, strict=True)):
        for s in range(len(starts) - 1):
            series = times[starts[s] : starts[s + 1]]
            early = len(series) if edge >= 1 else np.searchsorted(series, ordered[place])
            cuts[s, i] = starts[s] + early
    return cuts

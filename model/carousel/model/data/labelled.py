"""Tables of labelled sequences or steps to a corpus for classification and tagging."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from carousel.model.config import MAX_SIZE
from carousel.model.data.corpus import SPLITS, Array, Corpus, CorpusWriter
from carousel.model.data.rows import CHUNK, Rows, read_rows
from carousel.model.data.segments import (
    bounded,
    check_filled,
    cut_at_shares,
    cut_sequences,
    shares,
    split_sequences,
    whole_sequences,
)
from carousel.model.data.statistics import fill_missing, normalization_of, scored_rows
from carousel.model.data.tables import Table
from carousel.model.data.tasks import ClassifyTask, TagTask
from carousel.model.errors import ConfigError, DataError
from carousel.model.tokenizer import Characters, Words


def prepare_labelled(
    path: Path | str,
    task: ClassifyTask | TagTask,
    folder: Path | str,
    *,
    format: str,
    validation_share: float = 0.1,
    test_share: float = 0.1,
    seed: int = 0,
) -> Corpus:
    """The corpus of a CSV or Parquet file; raises DataError for data that cannot be learned from.

    Sequences are split whole: by the time of their first row when there is a time column, else
    shuffled by the seed and, to classify, with like shares of every label. One sequence alone, to
    tag, is cut by position.
    """
    edges = shares(validation_share, test_share)
    table = Table(path, format)
    columns, text = _columns(table, task)
    coded = {"label": task.label_column} | ({"token": text} if text else {})
    writer = CorpusWriter(folder)
    rows = read_rows(
        table, writer, columns, group=task.sequence_column, time=task.time_column, coded=coded
    )
    labels = sorted_labels(rows.values["label"])
    _recode(writer, "label", np.array([labels.index(v) for v in rows.values["label"]], np.int32))
    targets = writer.map("label")
    if isinstance(task, ClassifyTask):
        targets = _label_of_each(targets, rows, labels, task)
    times = writer.map("time")[rows.starts[:-1]] if task.time_column else None
    segments = split_labelled(rows.starts, targets, edges, seed, times=times)
    check_labels(segments, rows.starts, targets, labels, column=task.label_column, row=rows.row)
    normalization = None
    if columns:
        normalization = normalization_of(writer.map("steps"), segments["train"], columns)
        if rows.missing.any():
            fill_missing(writer, rows.starts, normalization.mean, 0)
    tokenizer = None
    if text:
        tokenizer = _tokens(writer, rows.values["token"], segments["train"], text)
    if isinstance(task, ClassifyTask):
        writer.append("targets", targets)
        writer.drop("label")
    else:
        writer.rename("label", "targets")
    writer.drop("time")
    writer.append("starts", rows.starts)
    return writer.seal(
        task,
        segments,
        inputs=(text,) if text else columns,
        labels=labels,
        tokenizer=tokenizer,
        vocabulary=len(tokenizer) if tokenizer else 0,
        normalization=normalization,
    )


def sorted_labels(values: tuple[str, ...]) -> tuple[str, ...]:
    """Labels in their order as whole numbers, or as text; raises DataError for too few or many."""
    if not 2 <= len(values) <= MAX_SIZE:
        raise DataError(
            f"there must be 2 to {MAX_SIZE} different labels, got {len(values)}: "
            f"{', '.join(values):.80}"
        )
    whole = all(value.removeprefix("-").isdecimal() and len(value) < 20 for value in values)
    return tuple(sorted(values, key=(lambda v: (int(v), v)) if whole else None))


def split_labelled(
    starts: Array,
    targets: Array,
    edges: tuple[float, float],
    seed: int,
    *,
    times: Array | None = None,
) -> dict[str, Array]:
    """Segments of labelled sequences: `targets` int32 [S], or of steps [N]; `times` [S] or None."""
    count = len(starts) - 1
    edges = bounded(edges, int(starts[-1]))
    if count == 1 and len(targets) > 1:
        segments = cut_sequences(starts, cut_at_shares(starts, edges))
        check_filled(segments, edges, int(starts[-1]))
        return segments
    if times is not None:
        order = np.argsort(times, kind="stable")
    else:
        strata = targets if len(targets) == count else np.zeros(count, np.int32)
        order = split_sequences(strata, np.random.default_rng(seed))
    places = [round(count * edge) for edge in edges]
    splits = np.empty(count, np.int8)
    splits[order] = np.searchsorted(places, np.arange(count), "right")
    segments = whole_sequences(starts, splits)
    check_filled(segments, edges, count, "sequences")
    return segments


def check_labels(
    segments: dict[str, Array],
    starts: Array,
    targets: Array,
    labels: tuple[str, ...],
    *,
    column: str,
    row: Callable[[int], int],
) -> None:
    """Raise DataError when a label that is to be told was never to be learned.

    `row` gives the number of the row that has a place within the steps.
    """
    whole = len(targets) == len(starts) - 1
    known = np.zeros(len(labels), bool)
    for split in SPLITS:
        for begin, scored, end in segments[split].tolist():
            first = int(np.searchsorted(starts, begin)) if whole else scored
            here = targets[first : first + 1] if whole else targets[scored:end]
            if split == "train":
                known[here] = True
            elif not known[here].all():
                place = int(np.argmin(known[here]))
                raise DataError(
                    f"label {labels[here[place]]!r} is in the {split} part, "
                    "but never in the training part",
                    row=row(scored + place),
                    column=column,
                )


def _columns(table: Table, task: ClassifyTask | TagTask) -> tuple[tuple[str, ...], str]:
    """The columns of numbers to read, or none and the column of text."""
    if not task.label_column:
        raise ConfigError("label_column must be set: only an archive has its own, y")
    if isinstance(task, ClassifyTask) and not task.sequence_column:
        raise ConfigError("sequence_column must be set: it says which rows are one sequence")
    special = [c for c in (task.label_column, task.sequence_column, task.time_column) if c]
    table.check_columns([*task.features, *special])
    columns = task.features or table.of_kind("number", but=special)
    texts = table.of_kind("text", but=special)
    if not columns and len(texts) == 1:
        columns = texts
    if not columns:
        more = f", and several of text: name one of {', '.join(texts):.80}" if texts else ""
        raise DataError(f"there is no column of numbers to read beside the label{more}")
    if len(columns) == 1 and table.kinds[columns[0]] == "text":
        return (), columns[0]
    return columns, ""


def _label_of_each(steps: Array, rows: Rows, labels: tuple[str, ...], task: ClassifyTask) -> Array:
    """The one label of each sequence, int32 [S]."""
    starts = rows.starts
    label = np.array(steps[starts[:-1]])
    for i in range(0, len(steps), CHUNK):
        chunk = steps[i : i + CHUNK]
        sequence = np.searchsorted(starts, np.arange(i, i + len(chunk)), "right") - 1
        wrong = np.flatnonzero(chunk != label[sequence])
        if len(wrong):
            place, s = i + int(wrong[0]), int(sequence[wrong[0]])
            raise DataError(
                f"{task.sequence_column} {rows.names[s]!r} has label {labels[steps[place]]!r} here "
                f"and {labels[label[s]]!r} in row {rows.row(int(starts[s]))}: "
                "a sequence must have one label",
                row=rows.row(place),
                column=task.label_column,
            )
    return label


def _tokens(
    writer: CorpusWriter, values: tuple[str, ...], train: Array, column: str
) -> Characters | Words:
    """Turn the codes of a column of text into the ids of a tokenizer.

    Words that stand in the training part less than twice are one and the same, so that something is
    learned about a word that is not known.
    """
    blank = next((value for value in values if value.split() != [value]), None)
    if blank is not None:
        raise DataError(f"a token must have no blanks in it, got {blank!r:.80}", column=column)
    tokenizer: Characters | Words
    if max(map(len, values)) == 1:
        tokenizer = Characters("".join(sorted(values)))
        ids = tokenizer.encode("".join(values))
    else:
        codes, seen = writer.map("token"), np.zeros(len(values), np.int64)
        for i in range(0, len(codes), CHUNK):
            here = codes[i : i + CHUNK][scored_rows(train, i, i + CHUNK, len(codes))]
            seen += np.bincount(here, minlength=len(values))
        tokenizer = Words(tuple(sorted(np.array(values, object)[seen > 1].tolist())))
        ids = tokenizer.encode(" ".join(values))
    _recode(writer, "token", np.array(ids, np.min_scalar_type(len(tokenizer) - 1)))
    writer.rename("token", "steps")
    return tokenizer


def _recode(writer: CorpusWriter, name: str, codes: Array) -> None:
    """Replace each value of an array by what `codes` has at that place."""
    values = writer.map(name)
    for i in range(0, len(values), CHUNK):
        writer.append("recoded", codes[values[i : i + CHUNK]])
    writer.rename("recoded", name)

"""A file of any format to a corpus for any task."""

from __future__ import annotations

from pathlib import Path

from carousel.model.data.archive import prepare_archive
from carousel.model.data.corpus import Corpus
from carousel.model.data.describe import FORMATS, guess_format
from carousel.model.data.labelled import prepare_labelled
from carousel.model.data.series import prepare_series
from carousel.model.data.tasks import ForecastTask, LanguageModelTask, Task
from carousel.model.data.text import prepare_text
from carousel.model.errors import ConfigError, DataError


def prepare(
    path: Path | str,
    task: Task,
    folder: Path | str,
    *,
    format: str | None = None,
    validation_share: float = 0.1,
    test_share: float = 0.1,
    seed: int = 0,
) -> Corpus:
    """Read a file in bounded memory and write its corpus to the folder.

    `format` is text, csv, parquet, jsonl or npz; None: told by the file's name. Raises DataError
    for data that cannot be learned from, with row and column where they are known, and ConfigError
    for a task that is not of such a file.
    """
    format = format or guess_format(Path(path).name)
    if format not in FORMATS:
        raise DataError(f"the format must be one of {', '.join(FORMATS)}, got {format!r:.80}")
    if isinstance(task, LanguageModelTask) != (format == "text"):
        raise ConfigError(f"a language model learns from text, all else from tables: got {format}")
    if isinstance(task, LanguageModelTask):
        return prepare_text(
            path, task, folder, validation_share=validation_share, test_share=test_share
        )
    if isinstance(task, ForecastTask):
        if format == "npz":
            raise ConfigError("forecasts are learned from tables (csv, parquet, jsonl), got npz")
        return prepare_series(
            path,
            task,
            folder,
            format=format,
            validation_share=validation_share,
            test_share=test_share,
        )
    if format == "npz":
        return prepare_archive(
            path, task, folder, validation_share=validation_share, test_share=test_share, seed=seed
        )
    return prepare_labelled(
        path,
        task,
        folder,
        format=format,
        validation_share=validation_share,
        test_share=test_share,
        seed=seed,
    )

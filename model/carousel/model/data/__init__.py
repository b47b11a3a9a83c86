"""Files of text, tables and archives to a corpus that a network can learn from."""

from importlib import import_module
from typing import TYPE_CHECKING

from carousel.model.data.corpus import Corpus
from carousel.model.data.describe import ColumnStatistics, Description, describe, guess_format
from carousel.model.data.prepare import prepare
from carousel.model.data.tasks import (
    ClassifyTask,
    ForecastTask,
    LanguageModelTask,
    TagTask,
    Task,
    task_from_dict,
    task_to_dict,
)
from carousel.model.errors import DataError

if TYPE_CHECKING:
    from carousel.model.data.batches import Batch, Streams
    from carousel.model.data.buckets import Bucketed

__all__ = [
    "Batch",
    "Bucketed",
    "ClassifyTask",
    "ColumnStatistics",
    "Corpus",
    "DataError",
    "Description",
    "ForecastTask",
    "LanguageModelTask",
    "Streams",
    "TagTask",
    "Task",
    "describe",
    "guess_format",
    "prepare",
    "task_from_dict",
    "task_to_dict",
]

_WITH_TORCH = {"Batch": "batches", "Streams": "batches", "Bucketed": "buckets"}


def __getattr__(name: str) -> object:
    """What comes with torch, for which a process that only reads data need not wait."""
    if name in _WITH_TORCH:
        return getattr(import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Files of text, tables and archives to a corpus that a network can learn from."""

from carousel.model.data.batches import Batch, Streams
from carousel.model.data.buckets import Bucketed
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

"""What to learn from a file: one frozen, checked dataclass for each kind of task."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from carousel.model.checks import alternative, integer, tagged
from carousel.model.config import MAX_SIZE, MAX_VOCABULARY
from carousel.model.errors import ConfigError
from carousel.model.tokenizer import BYTES

TOKENIZATIONS = ("characters", "bytes", "subwords")


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelTask:
    """Predict the next token of a text; `vocabulary` is of subwords alone."""

    tokenization: str = "characters"
    vocabulary: int = 1024
    document_separator: str = ""

    def __post_init__(self) -> None:
        if self.tokenization not in TOKENIZATIONS:
            raise ConfigError(
                f"tokenization must be one of {', '.join(TOKENIZATIONS)}, "
                f"got {self.tokenization!r:.80}",
                field="tokenization",
            )
        integer("vocabulary", self.vocabulary, BYTES + 1, MAX_VOCABULARY)
        _text("document_separator", self.document_separator)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastTask:
    """Predict the next `horizon` values of the target columns."""

    targets: tuple[str, ...]
    features: tuple[str, ...] = ()
    time_column: str = ""
    group_column: str = ""
    horizon: int = 1
    season: int = 1

    def __post_init__(self) -> None:
        _columns("targets", self.targets)
        if not self.targets:
            raise ConfigError("targets must name at least one column, got none", field="targets")
        _columns("features", self.features)
        integer("horizon", self.horizon, 1, MAX_SIZE // len(self.targets))
        integer("season", self.season, 1, 2**31 - 1)
        _different(self, *self.targets, *self.features, self.time_column, self.group_column)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyTask:
    """Give a whole sequence one label."""

    label_column: str = ""
    sequence_column: str = ""
    features: tuple[str, ...] = ()
    time_column: str = ""

    def __post_init__(self) -> None:
        _columns("features", self.features)
        _different(self, *self.features, self.label_column, self.sequence_column, self.time_column)


@dataclass(frozen=True, slots=True, kw_only=True)
class TagTask:
    """Give every step a label."""

    label_column: str = ""
    sequence_column: str = ""
    features: tuple[str, ...] = ()
    time_column: str = ""

    def __post_init__(self) -> None:
        _columns("features", self.features)
        _different(self, *self.features, self.label_column, self.sequence_column, self.time_column)


Task = LanguageModelTask | ForecastTask | ClassifyTask | TagTask
# The name of each in the JSON form.
TASKS: dict[str, type[Task]] = {
    "language_model": LanguageModelTask,
    "forecast": ForecastTask,
    "classify": ClassifyTask,
    "tag": TagTask,
}


def task_from_dict(given: Mapping[str, Any]) -> Task:
    """The task of a JSON object with the key `type`; unknown keys are a ConfigError."""
    return alternative("task", given, TASKS)


def task_to_dict(task: Task) -> dict[str, Any]:
    """The JSON form, every default filled in; `task_from_dict` makes an equal task of it."""
    return tagged(task, TASKS)


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a string, got {value!r:.80}", field=name)


def _columns(name: str, value: object) -> None:
    if not isinstance(value, tuple) or not all(isinstance(v, str) and v for v in value):
        raise ConfigError(f"{name} must be a list of column names, got {value!r:.80}", field=name)


def _different(task: Task, *columns: str) -> None:
    named = [column for column in columns if column != ""]
    for column in named:
        _text("a column", column)
    twice = next((column for column in named if named.count(column) > 1), None)
    if twice is not None:
        parts = {f.name: getattr(task, f.name) for f in fields(task)}
        last = [n for n, v in parts.items() if twice in (v if isinstance(v, tuple) else (v,))][-1]
        raise ConfigError(
            f"{last} names {twice!r} again: a column can have one part in a task", field=last
        )

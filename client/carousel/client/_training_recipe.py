"""Recipes: what a job learns and how, as plain values; None leaves it to the server."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar

from carousel.client._training_messages import fill, read
from carousel.errors import InvalidField
from carousel.v1 import training_pb2 as pb

Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModel:
    """Predict the next token of a text.

    `vocabulary` counts the subwords to learn (1,024 by default). `document_separator` is what
    ends a document, after which memory starts anew; without it the text is one document.
    """

    tokenization: Literal["characters", "bytes", "subwords"] | None = None
    vocabulary: int | None = None
    document_separator: str | None = None
    type: Literal["language_model"] = field(default="language_model", init=False)

    def __post_init__(self) -> None:
        fill(pb.LanguageModelTask(), self)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Predict the next values of the columns `targets` of a table.

    `features` are read beside the targets; without any, all other columns of numbers are. Rows
    are ordered by `time_column` and are of the series that `group_column` says. `horizon` counts
    the steps that are predicted at once, `season` the steps of one season, for the baseline.
    """

    targets: str | Sequence[str]
    _: dataclasses.KW_ONLY
    features: str | Sequence[str] = ()
    time_column: str | None = None
    group_column: str | None = None
    horizon: int | None = None
    season: int | None = None
    type: Literal["forecast"] = field(default="forecast", init=False)

    def __post_init__(self) -> None:
        _listed(self, "targets", "features")
        fill(pb.ForecastTask(), self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classify:
    """Give a whole sequence the label in `label_column`.

    `sequence_column` says which sequence a row is of; an archive of numpy needs neither.
    """

    label_column: str | None = None
    sequence_column: str | None = None
    features: str | Sequence[str] = ()
    time_column: str | None = None
    type: Literal["classify"] = field(default="classify", init=False)

    def __post_init__(self) -> None:
        _listed(self, "features")
        fill(pb.ClassifyTask(), self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """Give every step the label in `label_column`.

    `sequence_column` says which sequence a row is of; without it all rows are of one. A single
    feature of text is read as tokens.
    """

    label_column: str | None = None
    sequence_column: str | None = None
    features: str | Sequence[str] = ()
    time_column: str | None = None
    type: Literal["tag"] = field(default="tag", init=False)

    def __post_init__(self) -> None:
        _listed(self, "features")
        fill(pb.TagTask(), self)


Task = LanguageModel | Forecast | Classify | Tag


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkShape:
    """The network to train.

    `cell` is lstm, gru, rnn_tanh or rnn_relu. The forget gate of an LSTM begins with a bias of
    `constant_bias` (1 by default), or spread for memories of up to `chrono_steps` steps.
    """

    cell: str | None = None
    layers: int | None = None
    hidden_size: int | None = None
    embedding_size: int | None = None
    projection: int | None = None
    dropout: float = 0.0
    weight_dropout: float = 0.0
    learned_initial_state: bool = False
    constant_bias: float | None = None
    chrono_steps: int | None = None

    def __post_init__(self) -> None:
        if self.constant_bias is not None and self.chrono_steps is not None:
            raise InvalidField(
                "give either constant_bias or chrono_steps, got "
                f"{self.constant_bias} and {self.chrono_steps}",
                field="recipe.network.forget_bias",
            )
        fill(pb.NetworkShape(), self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a job learns. Every field, its unit and its default stand in training.proto.

    `max_duration` is in seconds, or a timedelta.
    """

    task: Task
    network: NetworkShape = NetworkShape()
    optimizer: Literal["adamw", "sgd"] | None = None
    learning_rate: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: Literal["constant", "cosine", "plateau"] | None = None
    warmup_steps: int | None = None
    final_share: float | None = None
    max_steps: int | None = None
    max_epochs: int | None = None
    max_duration: float | timedelta | None = None
    batch_size: int | None = None
    window: int | None = None
    clip_norm: float | None = None
    evaluate_every: int | None = None
    patience: int | None = None
    checkpoint_every: int | None = None
    keep_checkpoints: int | None = None
    gradients_every: int | None = None
    averaging: Literal["none", "ema", "mean"] | None = None
    precision: Literal["float32", "bfloat16"] | None = None
    seed: int = 0
    validation_share: float | None = None
    test_share: float | None = None

    def __post_init__(self) -> None:
        to_message(self)

    @classmethod
    def of(cls, given: Recipe | Mapping[str, Any]) -> Recipe:
        """From a mapping: `task` is one of the tasks, or `{"type": "forecast", ...}`.

        Raises InvalidField for keys that are none, and for what the fields can't hold.
        """
        if isinstance(given, Recipe):
            return given
        values = dict(given)
        task, network = values.get("task"), values.get("network")
        if isinstance(task, Mapping):
            values["task"] = _task(task)
        if isinstance(network, Mapping):
            values["network"] = _made(NetworkShape, network, "recipe.network")
        return _made(cls, values, "recipe")


def to_message(recipe: Recipe) -> pb.Recipe:
    name = next((name for name, kind in _TASKS.items() if type(recipe.task) is kind), None)
    if name is None:
        raise InvalidField(
            f"task must be one of {', '.join(kind.__name__ for kind in _TASKS.values())}, "
            f"got {recipe.task!r}",
            field="recipe.task",
        )
    message = pb.Recipe()
    getattr(message, name).SetInParent()
    fill(getattr(message, name), recipe.task)
    fill(message, recipe, but="task")
    return message


def from_message(message: pb.Recipe) -> Recipe:
    name = message.WhichOneof("task") or "language_model"
    task = read(_TASKS[name], getattr(message, name))
    return read(Recipe, message, task=task, network=read(NetworkShape, message.network))


def _task(given: Mapping[str, Any]) -> Task:
    values = dict(given)
    kind = _TASKS.get(values.pop("type", ""))
    if kind is None:
        raise InvalidField(
            f"task.type must be one of {', '.join(_TASKS)}, got {given.get('type')!r}",
            field="recipe.task",
        )
    return _made(kind, values, "recipe.task")


def _made(kind: type[Kind], values: Mapping[str, Any], where: str) -> Kind:
    """Raises InvalidField for what is unknown or missing."""
    fields: Any = dataclasses.fields(kind)  # type: ignore[arg-type]
    known = [one.name for one in fields if one.init]
    for name in values:
        if name not in known:
            raise InvalidField(
                f"{where} has no {name!r}, it has {', '.join(known)}", field=f"{where}.{name}"
            )
    try:
        return kind(**values)
    except TypeError as error:  # what has no default is missing
        raise InvalidField(f"{where} is not complete: {error}", field=where) from error


def _listed(task: Any, *names: str) -> None:
    """One column may be given as it is."""
    for name in names:
        given = getattr(task, name)
        object.__setattr__(task, name, (given,) if isinstance(given, str) else tuple(given))


_TASKS: dict[str, type[Task]] = {
    "language_model": LanguageModel,
    "forecast": Forecast,
    "classify": Classify,
    "tag": Tag,
}

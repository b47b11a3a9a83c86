"""Recipes as messages and as the JSON of docs/training.md: one walk over the fields each way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import duration_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from carousel.errors import InvalidField
from carousel.model import ConfigError
from carousel.model.training.recipe import Recipe
from carousel.v1 import training_pb2 as pb

_TASKS = [field.name for field in pb.Recipe.DESCRIPTOR.oneofs_by_name["task"].fields]
_SECONDS = {"max_duration": "max_seconds"}
_DURATIONS = {seconds: duration for duration, seconds in _SECONDS.items()}


def decode_recipe(message: pb.Recipe, *, field: str = "job.recipe") -> Recipe:
    """The recipe with every default filled in. Raises InvalidField."""
    task = message.WhichOneof("task")
    if task is None:
        raise InvalidField(
            f"{field} must have a task: one of {', '.join(_TASKS)}", field=f"{field}.task"
        )
    given = _to_dict(message, field)
    given["task"] = {"type": task, **given.pop(task)}
    try:
        return Recipe.from_dict(given)
    except ConfigError as error:
        raise _refusal(error, field, task) from None


def _refusal(error: ConfigError, field: str, task: str) -> InvalidField:
    """With the path that the proto has for what the JSON form calls by its own."""
    if not error.field:
        return InvalidField(f"{field}: {error}", field=field)
    path = error.field
    if path.startswith("task."):
        path = task + path.removeprefix("task")
    path = f"{field}.{_DURATIONS.get(path, path)}"
    return InvalidField(path + str(error).removeprefix(error.field), field=path)


def encode_recipe(recipe: Mapping[str, Any]) -> pb.Recipe:
    """The message of a recipe's JSON form."""
    values = dict(recipe)
    task = dict(values.pop("task"))
    values[task.pop("type")] = task
    message = pb.Recipe()
    _fill(message, values)
    return message


def _to_dict(message: Message, path: str) -> dict[str, Any]:
    """What is set, by name: zeros are not, unless the field knows its presence."""
    values: dict[str, Any] = {}
    for field, value in message.ListFields():
        name = field.name
        if field.enum_type is not None:
            values[name] = _word(field.enum_type, value, f"{path}.{name}")
        elif isinstance(value, duration_pb2.Duration):
            values[_SECONDS[name]] = value.ToNanoseconds() / 1e9
        elif isinstance(value, Message):
            values[name] = _to_dict(value, f"{path}.{name}")
        elif field.is_repeated:
            values[name] = list(value)
        elif field.type == FieldDescriptor.TYPE_FLOAT:
            values[name] = float(str(np.float32(value)))  # 0.1 and not 0.10000000149
        else:
            values[name] = value
    return values


def _fill(message: Message, values: Mapping[str, Any]) -> None:
    for field in message.DESCRIPTOR.fields:
        value = values.get(_SECONDS.get(field.name, field.name))
        if value is None:
            continue
        if field.enum_type is not None:
            number = field.enum_type.values_by_name[_prefix(field.enum_type) + value.upper()].number
            setattr(message, field.name, number)
        elif field.name in _SECONDS:
            getattr(message, field.name).FromNanoseconds(round(value * 1e9))
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
            _fill(getattr(message, field.name), value)
        elif field.is_repeated:
            getattr(message, field.name).extend(value)
        else:
            setattr(message, field.name, value)


def _word(kind: Any, number: int, path: str) -> str:
    """A value of an enum as a lower-case word without the prefix."""
    known = kind.values_by_number.get(number)
    if known is None:
        raise InvalidField(f"{path} must be one of {kind.name}, got {number}", field=path)
    return str(known.name).removeprefix(_prefix(kind)).lower()


def _prefix(kind: Any) -> str:
    return str(kind.values_by_number[0].name).removesuffix("UNSPECIFIED")

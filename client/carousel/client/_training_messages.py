"""Dataclasses to messages and back, field by field: they have the same names.

Fields that no caller gives (`init=False`) are ours alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from carousel.client._times import to_duration, to_timedelta
from carousel.errors import InvalidField

Value = TypeVar("Value")


def fill(message: Message, value: Any, *, but: str = "") -> None:
    """Set every field that is not None. Raises InvalidField for what no field can hold."""
    for field in dataclasses.fields(value):
        given = getattr(value, field.name)
        if given is not None and field.init and field.name != but:
            _set(message, field.name, given)


def read(kind: type[Value], message: Message, **known: Any) -> Value:
    """The value of this message; what is not set, or zero, has its default.

    `known` are the fields that look otherwise than in the message.
    """
    fields: Any = dataclasses.fields(kind)  # type: ignore[arg-type]
    found = {f.name: _get(message, f.name) for f in fields if f.init and f.name not in known}
    return kind(**known, **{name: given for name, given in found.items() if given is not None})


def word(described: Any, number: int) -> str:
    """`adamw` for OPTIMIZER_KIND_ADAMW; empty for the first, which means nothing."""
    return _words(described).get(number, "")


def number(described: Any, given: str, *, field: str) -> int:
    numbers = {name: value for value, name in _words(described).items()}
    if given not in numbers:
        allowed = " or ".join((", ".join([*numbers][:-1]), [*numbers][-1]))
        raise InvalidField(f"{field} must be {allowed}, got {given!r}", field=field)
    return numbers[given]


def _words(described: Any) -> dict[int, str]:
    values = described.values
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    return {one.number: one.name.removeprefix(prefix).lower() for one in values[1:]}


def _set(message: Message, name: str, given: Any) -> None:
    described = message.DESCRIPTOR.fields_by_name[name]
    try:
        if described.enum_type is not None:
            setattr(message, name, number(described.enum_type, given, field=name))
        elif described.message_type is Duration.DESCRIPTOR:
            getattr(message, name).CopyFrom(to_duration(given))
        elif described.message_type is not None:
            fill(getattr(message, name), given)
        elif isinstance(given, tuple):
            getattr(message, name).extend(given)
        else:
            setattr(message, name, given)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidField(f"{name} can't be {given!r}: {error}", field=name) from error


def _get(message: Message, name: str) -> Any:
    described = message.DESCRIPTOR.fields_by_name[name]
    if described.has_presence and not message.HasField(name):
        return None
    found = getattr(message, name)
    if described.enum_type is not None:
        return word(described.enum_type, found) or None
    if isinstance(found, Duration):
        return to_timedelta(found)
    if described.type == described.TYPE_FLOAT and isinstance(found, float):
        found = float(f"{found:.7g}")  # 0.1, as it was written, and not its nearest float32
    if described.has_presence:
        return found
    if isinstance(found, str | float | int | bytes):
        return found or None
    return tuple(found)

"""Checks of values that callers give, and the JSON form of frozen dataclasses; for every config."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from carousel.model.errors import ConfigError

Part = TypeVar("Part")


def finite(value: object) -> bool:
    """Whether the value is a number, and neither NaN nor Inf."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def integer(name: str, value: object, low: int, high: int) -> None:
    """Refuse what is no whole number between low and high."""
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(
            f"{name} must be an integer between {low} and {high}, got {value!r:.80}", field=name
        )


def instance(name: str, value: object, kind: Any) -> None:
    """Refuse what is not of the kind."""
    if not isinstance(value, kind):
        wanted = getattr(kind, "__name__", str(kind)).replace("carousel.model.config.", "")
        raise ConfigError(f"{name} must be {wanted}, got {value!r:.80}", field=name)


@contextmanager
def within(name: str) -> Iterator[None]:
    """Tell of fields below this one by their whole path."""
    try:
        yield
    except ConfigError as error:
        if not error.field:
            raise
        raise ConfigError(f"{name}.{error}", field=f"{name}.{error.field}") from None


def mapping(name: str, given: object) -> dict[str, Any]:
    """A copy of a JSON object with its lists as tuples."""
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise ConfigError(f"{name} must be an object, got {given!r:.80}")
    # JSON has lists only; the values of a config are tuples.
    return {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}


def alternative(name: str, given: object, choices: Mapping[str, type[Part]]) -> Part:
    """The one of several dataclasses that the key `type` names."""
    values = mapping(name, given)
    kind = values.pop("type", None)
    if not isinstance(kind, str) or kind not in choices:
        raise ConfigError(f"{name}.type must be one of {', '.join(choices)}, got {kind!r:.80}")
    return build(name, choices[kind], values)


def build(name: str, kind: type[Part], values: dict[str, Any]) -> Part:
    """The dataclass of the values; unknown and missing keys are a ConfigError."""
    allowed = [f.name for f in fields(kind) if f.init]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(allowed))
    if unknown:
        raise ConfigError(f"{name} has no {unknown[0]!r}: allowed are {', '.join(allowed)}")
    for needed in fields(kind):  # type: ignore[arg-type]
        default = (needed.default, needed.default_factory)
        if needed.init and default == (MISSING, MISSING) and needed.name not in values:
            raise ConfigError(
                f"{needed.name} must be given: {name} is not complete", field=needed.name
            )
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"{name} can't be read: {error}") from None


def tagged(part: Any, names: Mapping[str, type[Any]]) -> dict[str, Any]:
    """The JSON form of a dataclass, with the key `type`."""
    tag = next(name for name, kind in names.items() if isinstance(part, kind))
    values = {f.name: getattr(part, f.name) for f in fields(part) if f.init}
    return {"type": tag} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

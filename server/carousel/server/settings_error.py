"""What is wrong with a setting, in words an operator can act on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

Fields = Mapping[str, FieldInfo]


class SettingsError(ValueError):
    """Settings are unknown, malformed or out of their range; one line for each."""


def unknown(name: str, what: str, fields: Fields) -> str:
    """A line about something that is no setting, with the one that may have been meant."""
    near = difflib.get_close_matches(name, fields, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{what} is not a setting{hint}"


def explain(detail: ErrorDetails, fields: Fields) -> str:
    """A line about a setting: what was wrong, what was given, what is allowed."""
    if detail["type"] == "value_error":
        return detail["msg"].removeprefix("Value error, ")
    name = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        return unknown(name, name, fields)
    return f"{name} must be {_allowed(fields[name]) or detail['msg']}, got {detail['input']!r}"


def _allowed(field: FieldInfo) -> str:
    """The values of a field in words."""
    if get_origin(field.annotation) is Literal:
        return f"one of {', '.join(get_args(field.annotation))}"
    if field.annotation is bool:
        return "true or false"
    bounds = {
        bound: getattr(item, bound)
        for item in field.metadata
        for bound in ("gt", "ge", "le")
        if hasattr(item, bound)
    }
    kind = "a number" if field.annotation is float else "a whole number"
    if "ge" in bounds:
        return f"{kind} between {bounds['ge']:,.0f} and {bounds['le']:,.0f}"
    if "gt" in bounds:
        return f"{kind} above {bounds['gt']:,.0f} and at most {bounds['le']:,.0f}"
    return ""

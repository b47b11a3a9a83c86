"""Priorities: whether somebody waits for the answer."""

from __future__ import annotations

from typing import Literal

from carousel.errors import InvalidField

Priority = Literal["interactive", "bulk"]

_NUMBERS = {"interactive": 0, "bulk": 2}


def priority_number(priority: str) -> int:
    """As a message has it; interactive is what is left out."""
    if priority not in _NUMBERS:
        raise InvalidField(
            f"priority must be one of {', '.join(_NUMBERS)}, got {priority!r}", field="priority"
        )
    return _NUMBERS[priority]

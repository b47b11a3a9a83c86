"""Tokens and traces as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from carousel.client._inputs import Floats


class FinishReason(StrEnum):
    """Why generation stopped."""

    LENGTH = "length"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class TokenProbability:
    """A token and the natural logarithm of its probability."""

    id: int
    text: str
    log_probability: float


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a generation, or its end.

    `id` is None when only the end was told. `text` is what is now certain: empty while a stop
    text may still come true. `log_probability` and `top` (likeliest first) are there with
    `log_probabilities=`. `finish_reason` is set in the last one.
    """

    id: int | None
    text: str
    log_probability: float | None
    top: tuple[TokenProbability, ...]
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Everything inside a network while it read a sequence.

    `layers` from the input up; each has arrays [T, H] by name. LSTM: input, forget, candidate,
    output, cell, hidden. GRU: reset, update, candidate, hidden. RNN: hidden. `outputs` is [T, O].
    """

    layers: tuple[Mapping[str, Floats], ...]
    outputs: Floats
    model_version: str

"""The inside of a session as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from carousel import tensors
from carousel.client._inputs import Floats
from carousel.client._session_values import SessionInfo, session_info
from carousel.client._times import to_datetime
from carousel.v1 import session_service_pb2 as pb


@dataclass(frozen=True, slots=True, eq=False)
class GateActivity:
    """One gate, candidate or state over T steps.

    `means` [T] over the units; `saturated` [T], the share of units below 0.05 or above 0.95, where
    hardly any gradient passes (None for what is no gate); `units` [T, groups] the means of groups
    of neighbours, where they were asked for.
    """

    means: Floats
    saturated: Floats | None
    units: Floats | None


@dataclass(frozen=True, slots=True, eq=False)
class LayerInspection:
    """One layer: L2 norms of its present state, the share of its units in the flat part of their
    activation, how many steps its median unit remembers by the gates of the last step, and its
    gates by name.

    `cell_norm` is None where there is no cell state, `memory_horizon_steps` where no step is shown
    and for an RNN. LSTM: input, forget, candidate, output, cell, hidden. GRU: reset, update,
    candidate, hidden. RNN: hidden. No gates where no step is shown.
    """

    hidden_norm: float
    cell_norm: float | None
    saturated_ratio: float
    memory_horizon_steps: float | None
    gates: Mapping[str, GateActivity]


@dataclass(frozen=True, slots=True, eq=False)
class Inspection:
    """A session's state, and its latest steps, `first_step` to `first_step + steps - 1`.

    `layers` from the input up. `tokens` are what was fed, for a model of tokens. `surprises` are
    how unexpected they were, -ln p in nats, for a model that predicts them; NaN where it had not
    answered before. `watched_until` is None where the session is not watched.
    """

    session: SessionInfo
    layers: tuple[LayerInspection, ...]
    first_step: int
    steps: int
    tokens: tuple[int, ...]
    surprises: Floats
    watched_until: datetime | None

    @property
    def surprise(self) -> float | None:
        """Of the last step; None where it is not known."""
        last = float(self.surprises[-1]) if len(self.surprises) else math.nan
        return None if math.isnan(last) else last


def inspection(message: pb.InspectSessionResponse) -> Inspection:
    watched = message.HasField("watch_expire_time")
    return Inspection(
        session=session_info(message.session),
        layers=tuple(map(_layer, message.layers)),
        first_step=message.first_step,
        steps=message.steps,
        tokens=tuple(message.tokens),
        surprises=np.array(message.surprises_nats, np.float32),
        watched_until=to_datetime(message.watch_expire_time) if watched else None,
    )


def _layer(message: pb.LayerInspection) -> LayerInspection:
    knows = message.HasField("memory_horizon_steps")
    return LayerInspection(
        hidden_norm=message.hidden_norm,
        cell_norm=message.cell_norm if message.HasField("cell_norm") else None,
        saturated_ratio=message.saturated_ratio,
        memory_horizon_steps=message.memory_horizon_steps if knows else None,
        gates={gate.name: _gate(gate) for gate in message.gates},
    )


def _gate(message: pb.GateActivity) -> GateActivity:
    saturated = message.saturated_ratios
    return GateActivity(
        means=np.array(message.means, np.float32),
        saturated=np.array(saturated, np.float32) if saturated else None,
        units=tensors.decode(message.units, field="units") if message.HasField("units") else None,
    )

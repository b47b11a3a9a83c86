"""What a glimpse of a session shows, as a message.

Shapes: T steps that are shown, L layers, H units of a layer, P of its hidden state.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from carousel import tensors
from carousel.server.gates.activity import (
    GATES,
    KEEPS,
    Activity,
    Numbers,
    horizons,
    is_saturated,
    run_again,
    surprises,
)
from carousel.server.gates.glimpse import Glimpse, Past
from carousel.server.gates.watch import Part
from carousel.server.loaded import LoadedVersion
from carousel.server.ride import Brought
from carousel.server.state_health import flat_units
from carousel.server.work import Floats
from carousel.v1 import session_service_pb2 as pb

MOST_VALUES = 2**18  # of units in one answer


def show(glimpse: Glimpse, steps: int, units: int) -> pb.InspectSessionResponse:
    """The state, and at most `steps` of the latest steps; units in at most `units` groups."""
    row, past = glimpse.state(), glimpse.past
    response = pb.InspectSessionResponse(
        session=glimpse.session, layers=_layers(glimpse.version, row)
    )
    if glimpse.until is not None:
        response.watch_expire_time.FromNanoseconds(int(glimpse.until * 1e9))
    if past is not None and torch.equal(past.after.cpu(), row):
        _add_steps(response, glimpse.version, past, steps, units)
    return response


def _layers(version: LoadedVersion, row: torch.Tensor) -> list[pb.LayerInspection]:
    """The present state, layer by layer."""
    named = {name: v[0].double() for name, v in version.schema.split(row[None]).items()}  # [L, H]
    hidden, cell = named["h"], named.get("c")
    flat = flat_units(version.config.cell, (hidden if cell is None else cell).numpy())
    return [
        pb.LayerInspection(
            hidden_norm=float(hidden[layer].norm()),
            cell_norm=None if cell is None else float(cell[layer].norm()),
            saturated_ratio=float(flat[layer].mean()),
        )
        for layer in range(version.config.layers)
    ]


def _add_steps(
    response: pb.InspectSessionResponse, version: LoadedVersion, past: Past, steps: int, units: int
) -> None:
    parts = _latest(past.parts, steps + 1)  # one more, for its output
    activity = _run_parts(version, parts)
    shown = min(steps, len(activity.outputs))
    response.first_step, response.steps = parts[-1].end - shown, shown
    if version.config.takes_tokens:
        response.tokens.extend(activity.inputs[-shown:].tolist())
    if version.generative:
        before = past.before if len(parts) == len(past.parts) else None
        response.surprises_nats.extend(_surprises(activity, before)[-shown:].tolist())
    kept = activity.values.get(KEEPS.get(version.config.cell, ""))  # [N, L, H]
    most = MOST_VALUES // (shown * len(response.layers) * len(activity.values))
    for layer, message in enumerate(response.layers):
        if kept is not None:
            median = torch.tensor(np.median(kept[-1, layer].numpy()))
            message.memory_horizon_steps = float(horizons(median))
        for name, values in activity.values.items():
            own = values[-shown:, layer]  # [T, H]
            groups = max(1, min(units, own.shape[1], most)) if units else 0
            message.gates.append(_gate(name, own, groups))


def _gate(name: str, values: torch.Tensor, groups: int) -> pb.GateActivity:
    gate = pb.GateActivity(name=name, means=values.double().mean(1).tolist())
    if name in GATES:
        gate.saturated_ratios.extend(is_saturated(values).double().mean(1).tolist())
    if groups:
        gate.units.CopyFrom(tensors.encode(_grouped(values.numpy(), groups)))
    return gate


def _grouped(values: Floats, groups: int) -> Floats:
    """The means [T, groups] of neighbours among [T, H]."""
    edges = np.arange(groups + 1) * values.shape[1] // groups
    means: Floats = np.add.reduceat(values, edges[:-1], axis=1) / np.diff(edges).astype(np.float32)
    return means


def _surprises(activity: Activity, before: Floats | None) -> Numbers:
    """Of each step [N]; NaN for the first where no output is known before it."""
    logits = activity.outputs.roll(1, 0)
    if before is not None:
        logits[0] = torch.from_numpy(before)
    nats = surprises(logits, activity.inputs)
    if before is None:
        nats[0] = np.nan
    return nats


def _latest(parts: Sequence[Part], steps: int) -> Sequence[Part]:
    """The last parts, that have so many steps together or all that there are."""
    first = len(parts) - 1
    while first and parts[-1].end - parts[first].first < steps:
        first -= 1
    return parts[first:]


def _run_parts(version: LoadedVersion, parts: Sequence[Part]) -> Activity:
    """All parts again, those of one length together; in order."""
    alike: dict[int, list[int]] = defaultdict(list)
    for place, part in enumerate(parts):
        alike[len(part.inputs)].append(place)
    runs, order = [], []
    for length, places in alike.items():
        brought = Brought(
            np.stack([parts[place].inputs for place in places]),
            np.full(len(places), length),
            torch.stack([parts[place].state.cpu() for place in places]),
        )
        runs.append(run_again(version.network, brought))
        order += [np.arange(length) + parts[place].first for place in places]
    ranks = torch.from_numpy(np.argsort(np.concatenate(order)))
    return Activity(
        {name: torch.cat([run.values[name] for run in runs])[ranks] for name in runs[0].values},
        torch.cat([run.outputs for run in runs])[ranks],
        np.concatenate([run.inputs for run in runs])[ranks.numpy()],
        np.zeros(1, np.int64),
    )

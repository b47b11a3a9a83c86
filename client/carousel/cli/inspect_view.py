"""How the inside of a session looks: its layers, and a heat map of its latest steps."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from carousel.cli import heat, tables
from carousel.cli.outputs_view import symbols_of
from carousel.cli.quantities import count, when
from carousel.client import Inspection

if TYPE_CHECKING:
    from rich.console import RenderableType

    from carousel.client import Client, LayerInspection

_EVERY_SECONDS = 1.0
_BAR = 20


@dataclass(frozen=True, slots=True, eq=False)
class Inspected(Inspection):
    """With what each token of the model is."""

    symbols: Sequence[str] = field(repr=False)


class Looks:
    """Looks inside one session, again and again."""

    def __init__(self, client: Client, session: str, *, steps: int, units: int) -> None:
        self._client, self._session = client, session
        self._steps, self._units = steps, units
        self._symbols: dict[str, Sequence[str]] = {}  # by version: it may be migrated

    def look(self) -> Inspected:
        found = self._client.inspect_session(self._session, steps=self._steps, units=self._units)
        values = {one.name: getattr(found, one.name) for one in dataclasses.fields(found)}
        return Inspected(**values, symbols=self._names(found))

    def follow(self) -> Iterator[Inspected]:
        """Once a second, until the session ends."""
        from carousel.errors import NotFound

        yield self.look()
        while True:
            time.sleep(_EVERY_SECONDS)
            try:
                found = self.look()
            except NotFound:
                return
            yield found

    def _names(self, found: Inspection) -> Sequence[str]:
        name = found.session.model_version
        if not found.tokens:
            return ()
        if name not in self._symbols:
            config = self._client.get_version(name).config
            self._symbols[name] = symbols_of(config, config.input_size)
        return self._symbols[name]


def show(found: Inspected | Iterator[Inspected]) -> RenderableType | None:
    if not isinstance(found, Iterator):
        return _seen(found)
    from carousel.cli.output import console

    out = console()
    if not sys.stdout.isatty():
        for one in found:
            out.print(_seen(one), "")
        return None
    from rich.live import Live

    with Live(console=out, auto_refresh=False) as live:
        for one in found:
            live.update(_seen(one), refresh=True)
    return None


def _seen(one: Inspected) -> RenderableType:
    from rich.console import Group

    return Group(_facts(one), "", _layers(one), "", *_steps(one))


def _facts(one: Inspected) -> RenderableType:
    session = one.session
    pairs: dict[str, RenderableType] = {
        "session": session.id,
        "model": session.model_version.removeprefix("models/").replace("/versions/", "/"),
        "state": tables.state(session.state),
        "steps": count(session.step_index),
    }
    if one.surprise is not None:
        pairs["surprise"] = f"{one.surprise:.2f} nats"
    if one.watched_until is not None:
        pairs["watch ends"] = when(one.watched_until)
    return tables.facts(pairs)


def _layers(one: Inspected) -> RenderableType:
    columns = ("hidden norm", "cell norm", "saturated", "remembers")
    rows = [(str(number), *_cells(layer)) for number, layer in enumerate(one.layers)]
    numbers = [column for column in columns if column != "saturated"]  # that is a bar
    return tables.table("layer", *columns, rows=rows, numbers=numbers)


def _cells(layer: LayerInspection) -> tuple[str, ...]:
    steps = layer.memory_horizon_steps
    return (
        f"{layer.hidden_norm:.3g}",
        "" if layer.cell_norm is None else f"{layer.cell_norm:.3g}",
        f"{'█' * round(layer.saturated_ratio * _BAR)} {layer.saturated_ratio:.0%}",
        "" if steps is None else f"{steps:,.3g} steps" if steps < 1000 else f"{steps:,.0f} steps",
    )


def _steps(one: Inspected) -> Iterator[RenderableType]:
    from carousel.cli.heat_terminal import HeatView

    if not one.steps:
        watched = one.watched_until is not None
        yield "no step has come since it is watched: look again" if watched else ""
        return
    values: list[dict[str, Any]] = [
        {
            name: gate.means[:, None] if gate.units is None else gate.units
            for name, gate in layer.gates.items()
        }
        for layer in one.layers
    ]
    most = max((gate.shape[1] for layer in values for gate in layer.values()), default=1)
    names = [one.symbols[token] if token < len(one.symbols) else str(token) for token in one.tokens]
    bands = heat.bands(values, groups=most, surprises=one.surprises)
    yield HeatView(heat.HeatMap(one.session.name, bands, names, one.first_step))

"""A replay: one object a step for programs, a table for people, and the exit code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer

from carousel.cli import exits, tables
from carousel.cli.outputs_view import _likeliest, _symbols
from carousel.cli.quantities import count

if TYPE_CHECKING:
    from rich.console import RenderableType

    from carousel.client import Client, ModelConfig, Replay, ReplayedStep, ReplaySummary

_MOST_ROWS = 1000
_WIDEST = 4


class Replayed(Iterator[Any]):
    """The steps of a replay, then its summary; then, when something is amiss, the end."""

    def __init__(self, client: Client, replay: Replay) -> None:
        self.client = client
        self.replay = replay
        self._told = False

    def __next__(self) -> ReplayedStep | ReplaySummary:
        while (step := next(self.replay, None)) is not None:
            if step.output is not None or not step.matches:  # all, unless only verified
                return step
        summary = self.replay.summary
        if summary is None or self._told:
            leave(summary)
            raise StopIteration
        self._told = True
        return summary


def leave(summary: ReplaySummary | None) -> None:
    """End the command with an exit code that says whether all was well."""
    if summary is None or not summary.good:
        raise typer.Exit(exits.FAILED)


def show(replayed: Replayed) -> None:
    from carousel.cli.output import console

    out, left_out = console(), 0
    rows: list[tuple[RenderableType, ...]] = []
    configs: dict[str, ModelConfig] = {}
    for step in replayed.replay:
        if step.output is None and step.matches:
            continue
        if len(rows) >= _MOST_ROWS and step.matches:
            left_out += 1
            continue
        if step.model_version not in configs:
            configs[step.model_version] = replayed.client.get_version(step.model_version).config
        rows.append(_row(step, configs[step.model_version]))
    if rows:
        out.print(tables.table("step", "event", "input", "output", "matches", rows=rows,
                               numbers=("step",)))  # fmt: skip
    if left_out:
        out.print(f"and {count(left_out)} more steps that match; --from and --to choose")
    summary = replayed.replay.summary
    if summary is not None:
        out.print(tables.facts(dict(_facts(summary))))
    leave(summary)


def _row(step: ReplayedStep, config: ModelConfig) -> tuple[RenderableType, ...]:
    from rich.text import Text

    notes = [step.event or "", "superseded" if step.superseded else ""]
    if step.missing_steps:
        notes.insert(0, f"after {count(step.missing_steps)} missing")
    if not step.matches:
        matches = Text("no" if step.exact else f"no, off by {step.difference:.2g}", "bold red")
    else:
        matches = Text("exactly" if step.exact else f"within {step.difference:.1g}", "green")
    shown = ("", "") if step.output is None else _values(step, config)
    return (count(step.step_index), ", ".join(filter(None, notes)), *shown, matches)


def _values(step: ReplayedStep, config: ModelConfig) -> tuple[str, str]:
    """The input and the output, as one would read them."""
    fed = step.input
    symbols: Sequence[str] = _symbols(config) if config.head == "softmax" else config.labels or ()
    if isinstance(fed, int):
        read = symbols[fed] if config.head == "softmax" and fed < len(symbols) else str(fed)
    else:
        read = _numbers(fed)
    if config.head in ("softmax", "classifier") and symbols:
        return read, " ".join(_likeliest(step.output, symbols, 1)[0])
    return read, _numbers(step.output)


def _numbers(row: Any) -> str:
    more = ["..."] if len(row) > _WIDEST else []
    return ", ".join([*(f"{value:.5g}" for value in row[:_WIDEST]), *more])


def _facts(summary: ReplaySummary) -> Iterator[tuple[str, RenderableType]]:
    from rich.text import Text

    bad = f"{count(summary.mismatches)} of {count(summary.steps)} do not match"
    good = f"{count(summary.steps)}, all match"
    yield "steps", Text(bad, "bold red") if summary.mismatches else good
    if summary.missing_steps:
        yield "missing", Text(f"{count(summary.missing_steps)} steps", "bold red")
    yield "log", f"{count(summary.entries)} entries, unchanged"
    if not summary.complete:
        yield "end", "none: its server was lost, its disk was full, or its tail was cut off"
    yield "chain", summary.chain

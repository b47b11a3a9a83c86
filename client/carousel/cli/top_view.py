"""How a server looks right now: numbers, then models, sessions, jobs and gates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from carousel.cli import job_lines, tables
from carousel.cli.quantities import count, span
from carousel.cli.top_now import GateNow, ModelNow, Now, SessionNow
from carousel.cli.top_numbers import Past, head, known, numbers, said, short, time

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.text import Text

    from carousel.client import Job

WIDE = 118
BAR = 8
SATURATED, DRIFTED = 0.9, 0.25
LEAST_SESSIONS = 3
TOP = 9  # lines of head, numbers and hint
HEAD = 3  # lines of a block beside its rows
MOST = 6  # rows of models and of jobs
ACTIVE = ("running", "preparing", "cancelling", "queued")


class Picture:
    """What `now` looks like: all of it; with a hint below, as much as the screen has room for."""

    def __init__(self, now: Now, past: Past, *, hint: str = "") -> None:
        self._now, self._past, self._hint = now, past, hint

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.console import Group
        from rich.segment import Segment

        if not self._hint or self._now.server is None:
            yield from self._parts(options.max_width, None)
            return
        # Not `options.height`: rich's Live does not pass it on.
        whole = Group(*self._parts(options.max_width, console.height))
        for line in console.render_lines(whole, options, pad=False)[: console.height - 1]:
            yield from line
            yield Segment.line()
        yield said(self._hint, "dim")

    def _parts(self, width: int, height: int | None) -> Iterator[RenderableType]:
        from rich.console import Group

        yield head(self._now, width)
        if self._now.server is None:
            return
        yield ""
        yield numbers(self._now, self._past, width)
        for part, why in self._now.denied.items():
            yield said(f"no {part}: {why}", "yellow")
        wide = width >= WIDE
        left, right = self._columns(height, wide=wide)
        yield _beside(Group(*left), Group(*right)) if wide else Group(*left, *right)

    def _columns(
        self, height: int | None, *, wide: bool
    ) -> tuple[list[RenderableType], list[RenderableType]]:
        """Sessions get what the others leave of the height; gates what sessions leave below."""
        now = self._now
        models = now.models[:MOST]
        jobs = [job for job in now.jobs if job.state in ACTIVE][:MOST] or now.jobs[:1]
        sessions, gates = now.sessions, now.gates
        if height is not None:
            height -= len(now.denied)
            room = height - TOP - _lines(models) - HEAD
            below = 0 if wide else _lines(jobs) + _lines(gates)
            sessions = sessions[: max(LEAST_SESSIONS, room - below)]
            taken = _lines(jobs) + (0 if wide else _lines(models) + _lines(sessions))
            gates = gates[: max(0, height - TOP - taken - HEAD)]
        rest = len(now.sessions) - len(sessions)
        title = f"sessions, {count(rest)} more" if rest > 0 else "sessions"
        left = list(_block("models", _models(models)))
        if "sessions" not in now.denied:
            left += _block(title, _sessions(sessions))
        right = list(_block("jobs", _jobs(jobs))) if jobs else []
        return left, [*right, *_block("gates", _gates(gates))] if gates else right


def _models(models: Sequence[ModelNow]) -> RenderableType:
    columns = ("steps/s", "batch", "p50", "p99", "sessions")
    rows = [
        (
            one.name,
            short(one.rates.steps_per_second if one.rates else None),
            short(one.rates.batch_size if one.rates else None),
            time(one.rates.step_p50_seconds if one.rates else None),
            time(one.rates.step_p99_seconds if one.rates else None),
            known(one.sessions),
        )
        for one in models
    ]
    return _table("model", *columns, rows=rows, numbers=columns)


def _sessions(sessions: Sequence[SessionNow]) -> RenderableType:
    if not sessions:
        return said("none is open", "dim")
    rows = [
        (
            tables.owned(one.session),
            one.session.model_version.removeprefix("models/").replace("/versions/", "/"),
            count(one.session.step_index),
            short(one.steps_per_second),
            _left(one.session.expire_time),
            tables.state(one.session.state),
        )
        for one in sessions
    ]
    columns = ("session", "model", "steps", "steps/s", "ends in", "state")
    return _table(*columns, rows=rows, numbers=columns[2:5])


def _jobs(jobs: Sequence[Job]) -> RenderableType:
    rows = [
        (
            tables.owned(one),
            _bar(one.progress.step / max(one.progress.max_steps, 1)) if one.progress else "",
            job_lines.number(one.progress.loss) if one.progress else "",
            short(one.progress.steps_per_second if one.progress else None),
            tables.state(one.state),
        )
        for one in jobs
    ]
    columns = ("job", "updates", "loss", "steps/s", "state")
    return _table(*columns, rows=rows, numbers=("loss", "steps/s"))


def _gates(gates: Sequence[GateNow]) -> RenderableType:
    rows = [
        (
            one.model,
            str(one.layer),
            one.gate,
            _bar(one.mean),
            _bar(one.saturated, warn=SATURATED),
            said("" if one.drift is None else f"{one.drift:.2f}",
                  "yellow" if (one.drift or 0.0) > DRIFTED else ""),
        )
        for one in gates
    ]  # fmt: skip
    columns = ("model", "layer", "gate", "open", "saturated", "drift")
    return _table(*columns, rows=rows, numbers=("layer", "drift"))


def _bar(share: float | None, *, warn: float = 2.0) -> Text:
    if share is None:
        return said("")
    filled = round(min(1.0, max(0.0, share)) * BAR)
    made = said("━" * filled, "yellow" if share > warn else "cyan")
    made.append("─" * (BAR - filled), style="not bold dim")
    return made.append(f" {share:4.0%}", style="default not dim")


def _lines(rows: Sequence[object]) -> int:
    """That a block of these rows takes."""
    return len(rows) + HEAD if rows else 0


def _block(title: str, table: RenderableType) -> Iterator[RenderableType]:
    yield said(title, "bold cyan")
    yield table
    yield ""


def _table(
    *columns: str, rows: Sequence[Sequence[RenderableType]], numbers: Sequence[str] = ()
) -> RenderableType:
    """One line a row, whatever happens: the first column gives way."""
    from rich.table import Table

    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", expand=True)
    for place, column in enumerate(columns):
        made.add_column(
            column,
            justify="right" if column in numbers else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=None if place else 1,
        )
    for row in rows:
        made.add_row(*(said(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def _beside(left: RenderableType, right: RenderableType) -> RenderableType:
    from rich.table import Table

    row = Table.grid(expand=True, padding=(0, 3, 0, 0))
    row.add_column(ratio=1)
    row.add_column(ratio=1)
    row.add_row(left, right)
    return row


def _left(moment: datetime) -> str:
    return span(max(0, round((moment - datetime.now(UTC)).total_seconds())))

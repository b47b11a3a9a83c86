"""A job while it learns: one picture that moves on a terminal, a line for each event elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from carousel.cli import job_lines, plots, tables
from carousel.cli.generate_view import harmless
from carousel.cli.job_history import History
from carousel.cli.quantities import count, span

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.text import Text

    from carousel.client import Job, JobEvent

LOSS, HELD_OUT = "cyan", "yellow"
FRAMES_PER_SECOND = 4
_MARGIN = 10
_LOWEST, _HIGHEST = 4, 12
_OTHER_LINES = 14
_SHOWN_WARNINGS = 3


HINT = "Ctrl-C leaves the job running."


def show(job: Job, events: Iterator[JobEvent], *, out: Console, hint: str = HINT) -> None:
    """Show the events until there are no more; `hint` stands below while they come."""
    if not sys.stdout.isatty():
        for event in events:
            print(harmless(job_lines.line(event)), flush=True)
        return
    from rich.live import Live

    history = History()
    picture = Picture(job, history, hint=hint)
    with Live(picture, console=out, refresh_per_second=FRAMES_PER_SECOND) as live:
        try:
            for event in events:
                history.add(event)
        finally:
            picture.hint = ""
            live.refresh()


class Picture:
    """What a history looks like now."""

    def __init__(self, job: Job, history: History, *, hint: str = "") -> None:
        self._job, self._history, self.hint = job, history, hint
        self._begin = time.monotonic()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = (options.height or console.height) - _OTHER_LINES
        yield from self.parts(options.max_width, max(_LOWEST, min(_HIGHEST, height)))

    def parts(self, width: int, height: int) -> Iterator[RenderableType]:
        """From the top down; the plot is `height` lines high."""
        yield self._head()
        yield self._bar(width)
        if self._history.progress:
            yield from self._plot(width, height)
            yield ""
            yield _said(", ".join(job_lines.progress(self._history.progress[-1])))
        if self._history.evaluations:
            latest = self._history.evaluations[-1]
            yield _said(f"{plots.MARK} {job_lines.evaluation(latest)}", HELD_OUT)
        yield from self._gradients(width)
        for message in self._history.warnings[-_SHOWN_WARNINGS:]:
            yield _said(f"! {message}", "bold yellow")
        if self.hint:
            yield _said(self.hint, "dim")

    def _head(self) -> RenderableType:
        from rich.text import Text

        state = self._history.state or self._job.state
        head = Text(f"{self._job.id}  ", style="bold", no_wrap=True)
        head.append(str(state), style=tables.STATE_STYLES.get(state, ""))
        if self._history.attempt > 1:
            head.append(f", attempt {self._history.attempt}", style="yellow")
        if self._job.promotion.model:
            head.append(f"  for {self._job.promotion.model}", style="dim")
        return head.append(f"  {span(max(1, round(time.monotonic() - self._begin)))}", style="dim")

    def _bar(self, width: int) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        seen = self._history.progress[-1] if self._history.progress else None
        row = Table.grid(padding=(0, 2))
        if seen is None:  # its length is not known yet
            row.add_row(ProgressBar(total=None, width=min(40, width - 2)))
            return row
        share = f"{count(seen.step)} of {count(seen.max_steps)} updates, epoch {seen.epoch:.1f}"
        bar = ProgressBar(seen.max_steps or 1, seen.step, width=max(10, min(40, width - 50)))
        row.add_row(bar, share)
        return row

    def _plot(self, width: int, height: int) -> Iterator[RenderableType]:
        """The loss by update, with its scale at the left."""
        from rich.text import Text

        points, marks = self._history.losses, self._history.validation_losses
        (left, right), (low, high) = plots.bounds([*points, *marks])
        steep = plots.is_steep([*points, *marks])
        if steep:
            points, marks = plots.logarithms(points), plots.logarithms(marks)
        lines = plots.curve(points, width=width - _MARGIN - 1, height=height, marks=marks)
        yield Text.assemble(
            "\n" + " " * _MARGIN,
            ("━ training loss", LOSS),
            (f"  {plots.MARK} validation loss", HELD_OUT),
            ("  by logarithms" if steep else "", "dim"),
            no_wrap=True,
        )
        for place, line in enumerate(lines):
            scale = {0: job_lines.number(high), height - 1: job_lines.number(low)}.get(place, "")
            text = Text(f"{scale:>{_MARGIN - 2}} │", style="dim", no_wrap=True)
            text.append(line, style=f"not dim {LOSS}")
            text.highlight_regex(plots.MARK, f"not dim bold {HELD_OUT}")
            yield text
        below = f"{count(left)}{count(right):>{max(1, width - _MARGIN - 1 - len(count(left)))}}"
        yield Text(" " * _MARGIN + below, style="dim", no_wrap=True)

    def _gradients(self, width: int) -> Iterator[RenderableType]:
        if not self._history.gradients:
            return
        from rich.table import Table

        flow = self._history.gradients[-1]
        row = Table.grid(padding=(0, 2))
        for layer in flow.layers:
            norms = layer.cell_norms or layer.hidden_norms
            kept = "" if layer.forget_mean is None else f"forget {layer.forget_mean:.2f}"
            row.add_row(
                _said(f"gradient of layer {layer.layer}"),
                _said(plots.bars(norms, width=max(8, width - 60)), "magenta"),
                _said(f"horizon {count(layer.horizon)}"),
                _said(kept),
            )
        yield row
        trouble = flow.vanishing or flow.exploding
        if flow.verdict:
            yield _said(flow.verdict, "yellow" if trouble else "dim")


def _said(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(harmless(text), style=style)

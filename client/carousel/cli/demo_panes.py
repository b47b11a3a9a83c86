"""What people see of the demo: panes side by side on a terminal, labelled lines elsewhere."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from carousel.cli.generate_view import harmless
from carousel.cli.output import console

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

COLOURS = ("cyan", "magenta", "yellow")
# Text comes faster than anyone can read; on a terminal a person shall see it come.
TOKEN_SECONDS = 0.006
FRAMES_PER_SECOND = 30
LINE = 76


class Panes(Protocol):
    """Texts that grow at once."""

    def add(self, place: int, text: str) -> None:
        """Add to the text at this place."""


class Stage:
    """Where the demo is shown."""

    def __init__(self) -> None:
        self.console = console()

    def title(self, text: str) -> None:
        from rich.text import Text

        self.console.print()
        self.console.print(Text(text, style="bold"), soft_wrap=True)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Something that turns, on a terminal."""
        if not self.console.is_terminal:
            yield
            return
        with self.console.status(text):
            yield

    def say(self, text: str) -> None:
        from rich.text import Text

        self.show(Text(text))

    def command(self, text: str) -> None:
        from rich.text import Text

        self.show(Text(f"$ {text}", style="dim"))

    def show(self, what: RenderableType) -> None:
        from rich.padding import Padding

        self.console.print(Padding(what, (0, 0, 0, 3), expand=False))

    @contextmanager
    def panes(
        self, titles: Sequence[str], prompts: Sequence[str], *, tokens: int
    ) -> Iterator[Panes]:
        """Panes for this block; `prompts` stand in them from the beginning."""
        if not self.console.is_terminal:
            lines = LabelledLines(titles, prompts)
            yield lines
            lines.finish()
            return
        from rich.live import Live

        with Live(console=self.console, auto_refresh=False, transient=False) as live:
            side_by_side = SideBySide(self.console, live, titles, prompts, tokens)
            yield side_by_side
            side_by_side.draw()


class SideBySide:
    """A pane for each text, redrawn a few times a second."""

    def __init__(
        self,
        out: Console,
        live: Live,
        titles: Sequence[str],
        prompts: Sequence[str],
        tokens: int,
    ) -> None:
        from rich.text import Text

        self._out, self._live, self._titles = out, live, titles
        self._texts = [Text(prompt, style="bold") for prompt in prompts]
        self._drawn = 0.0
        self._width = out.width // len(titles) - 4
        # Room for a character a token, and for lines that end early.
        wanted = (len(prompts[0]) + tokens) // self._width + 5
        self._height = max(3, min(wanted, out.height - 6))
        self.draw()

    def add(self, place: int, text: str) -> None:
        self._texts[place].append(harmless(text), style="not bold")
        time.sleep(TOKEN_SECONDS)
        if time.monotonic() - self._drawn >= 1 / FRAMES_PER_SECOND:
            self.draw()

    def draw(self) -> None:
        from rich.panel import Panel
        from rich.table import Table

        row = Table.grid(expand=True)
        for _ in self._texts:
            row.add_column(ratio=1)
        row.add_row(
            *(
                Panel(self._end_of(text), title=title, border_style=colour, title_align="left")
                for text, title, colour in zip(self._texts, self._titles, COLOURS, strict=False)
            )
        )
        self._live.update(row, refresh=True)
        self._drawn = time.monotonic()

    def _end_of(self, text: Text) -> Text:
        """Its last lines, as many as the pane is high."""
        from rich.text import Text

        lines = text.wrap(self._out, self._width)[-self._height :]
        lines.extend([Text("")] * (self._height - len(lines)))
        return Text("\n").join(lines)


class LabelledLines:
    """Each text by whole lines, behind its label, as they come."""

    def __init__(self, titles: Sequence[str], prompts: Sequence[str]) -> None:
        self._titles = titles
        self._rest = list(prompts)
        self._wide = max(map(len, titles))

    def add(self, place: int, text: str) -> None:
        *lines, rest = (self._rest[place] + text).split("\n")
        for line in lines:
            self._write(place, line)
        if len(rest) > LINE:
            first, *more = textwrap.wrap(rest, LINE, drop_whitespace=False)
            self._write(place, first)
            rest = "".join(more)
        self._rest[place] = rest

    def finish(self) -> None:
        for place, rest in enumerate(self._rest):
            self._write(place, rest)

    def _write(self, place: int, line: str) -> None:
        if line.strip():
            print(f"   {self._titles[place]:<{self._wide}} | {harmless(line.strip())}", flush=True)

"""The numbers of `carousel top`: who the server is, and eight numbers with their past."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from carousel.cli.generate_view import harmless
from carousel.cli.quantities import count, span
from carousel.cli.top_now import Now

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

PAST = 60
SPARKS_WIDE = 12, 6  # where there is room, and where not
SPARKS = "▁▂▃▄▅▆▇█"
FULL = 0.9
FOUR_ACROSS, ROOMY = 76, 108  # columns of the terminal


class Past:
    """The numbers of the last looks, for their small curves."""

    def __init__(self) -> None:
        self.looks: deque[Now] = deque(maxlen=PAST)

    def add(self, one: Now) -> None:
        if one.server is None or one.rates is None:
            self.looks.clear()
        else:
            self.looks.append(one)


def head(now: Now, width: int) -> RenderableType:
    """Who it is, and how it is."""
    from rich.table import Table
    from rich.text import Text

    name = Text("carousel", style="bold").append(f"  {now.target}", style="not bold")
    if now.server is None:
        away = span(max(1, round(now.away_seconds)))
        state = said(f"does not answer, for {away}", "bold red")
        name.append(f"\n{harmless(now.trouble)}", style="not bold dim")
    else:
        up = (datetime.now(UTC) - now.server.start_time).total_seconds()
        name.append(
            f"  {now.server.version} on {now.server.device}, up {span(max(1, round(up)))}",
            style="not bold dim",
        )
        state = _state(now)
    row = Table.grid(expand=True)
    row.add_column()
    row.add_column(justify="right")
    row.add_row(name, state)
    return row


def _state(now: Now) -> Text:
    assert now.server is not None
    store = now.server.store
    if store is not None and not store.healthy:
        return said(f"store fails: {store.message}", "bold red")
    if now.server.draining:
        return said("draining", "yellow")
    if now.server.sessions > FULL * now.server.max_sessions:
        return said("sessions near capacity", "yellow")
    return said("ready", "green")


def numbers(now: Now, past: Past, width: int) -> RenderableType:
    """Eight numbers, each with a note and a curve of what it was."""
    from rich.table import Table

    cells = list(_cells(now, past, SPARKS_WIDE[width < ROOMY]))
    across = 4 if width >= FOUR_ACROSS else 2
    made = Table.grid(expand=True, padding=(0, 2))
    for _ in range(across):
        made.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for begin in range(0, len(cells), across):
        made.add_row(*cells[begin : begin + across])
    return made


def _cells(now: Now, past: Past, wide: int) -> Iterator[Text]:
    assert now.server is not None
    rates, server = now.rates, now.server
    yield _cell(
        "steps",
        "-" if rates is None else f"{short(rates.steps_per_second)}/s",
        "" if rates is None else f"{short(rates.tokens_per_second)} tokens/s",
        (look.rates.steps_per_second if look.rates else None for look in past.looks),
        wide,
    )
    yield _cell(
        "latency",
        time(rates.step_p50_seconds if rates else None),
        f"p99 {time(rates.step_p99_seconds if rates else None)}",
        (look.rates.step_p99_seconds if look.rates else None for look in past.looks),
        wide,
    )
    yield _cell(
        "batch",
        short(rates.batch_size if rates else None),
        f"turn {time(rates.turn_seconds if rates else None)}",
        (look.rates.batch_size if look.rates else None for look in past.looks),
        wide,
    )
    yield _cell(
        "queue",
        known(now.waiting),
        f"{known(now.running)} ride",
        (look.waiting for look in past.looks),
        wide,
    )
    yield _cell(
        "sessions",
        count(server.sessions),
        f"{known(now.sessions_parked)} parked",
        (float(look.server.sessions) if look.server else None for look in past.looks),
        wide,
    )
    yield _cell(
        "failed",
        "-" if rates is None else f"{short(rates.failed_per_second)}/s",
        f"{known(now.failed)} in all",
        (look.rates.failed_per_second if look.rates else None for look in past.looks),
        wide,
    )
    yield _cell(
        "turns",
        "-" if rates is None else f"{short(rates.turns_per_second)}/s",
        f"up to {count(server.max_batch)} rows",
        (look.rates.turns_per_second if look.rates else None for look in past.looks),
        wide,
    )
    lag = server.store.lag_steps if server.store else None
    yield _cell(
        "store",
        "none" if lag is None else count(lag),
        "" if server.store is None else f"steps behind, {server.store.kind}",
        (
            float(look.server.store.lag_steps) if look.server and look.server.store else None
            for look in past.looks
        ),
        wide,
    )


def _cell(name: str, value: str, note: str, past: Iterable[float | None], wide: int) -> Text:
    """Two lines."""
    from rich.text import Text

    made = Text(f"{name:<9}", style="dim")
    made.append(f"{value}\n", style="not dim bold")
    made.append(f"{spark(list(past)[-wide:]):<{wide}} ", style="not bold cyan")
    return made.append(f"{note}\n", style="not bold dim")


def spark(values: Sequence[float | None]) -> str:
    """From zero to the largest; a gap where nothing came."""
    top = max((value for value in values if value is not None), default=0.0)
    return "".join(
        " "
        if value is None
        else SPARKS[round((value / top if top > 0 else 0.0) * (len(SPARKS) - 1))]
        for value in values
    )


def time(seconds: float | None) -> str:
    return "-" if seconds is None else span(seconds)


def known(value: int | None) -> str:
    return "-" if value is None else count(value)


def short(value: float | None) -> str:
    """`12,345`, `87`, `3.4`."""
    if value is None:
        return "-"
    return f"{value:.3g}" if 0 < value < 10 else f"{value:,.0f}"


def said(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(harmless(text), style=style)

"""Where `carousel top` is shown: the whole of a terminal until q, or one after the other."""

from __future__ import annotations

import os
import select
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from carousel.cli.output import console
from carousel.cli.top_now import Now
from carousel.cli.top_numbers import Past
from carousel.cli.top_view import Picture

if TYPE_CHECKING:
    from carousel.cli.top_watch import Watch

WIDTH = 100  # where there is no terminal, and COLUMNS says nothing
HINT = "q leaves"
TICK = 0.1  # seconds until a key, a look or a new size of the terminal is seen


def show(seen: Now | Watch) -> None:
    """One look as it is; looks without end on the whole terminal, or below each other."""
    if isinstance(seen, Now):
        _one_below_the_other([seen])
    elif sys.stdout.isatty() and sys.stdin.isatty():
        _fill_screen(seen)
    else:
        _one_below_the_other(seen)


def _one_below_the_other(looks: Iterable[Now]) -> None:
    past, out = Past(), console(elsewhere=shutil.get_terminal_size((WIDTH, 0)).columns)
    for one in looks:
        past.add(one)
        out.print(Picture(one, past), "")


def _fill_screen(watch: Watch) -> None:
    """Until q, Ctrl-C or the end of the terminal; then all is as it was before."""
    from rich.live import Live
    from rich.text import Text

    from carousel.cli.demo_processes import stop_on_signals

    out, past, looks = console(), Past(), _looks(watch)
    waiting = Text(f"carousel  {watch.target}", style="bold").append("  asking", style="dim")
    with (
        stop_on_signals(),
        suppress(KeyboardInterrupt),
        _keys_at_once(),
        Live(waiting, console=out, screen=True, auto_refresh=False) as live,
    ):
        size = out.size
        while not _wants_to_leave():
            with suppress(Empty):
                one = looks.get_nowait()
                if isinstance(one, BaseException):
                    raise one
                past.add(one)
                live.update(Picture(one, past, hint=HINT), refresh=True)
            if out.size != size:
                size = out.size
                live.refresh()


def _looks(watch: Watch) -> SimpleQueue[Now | BaseException]:
    """Looks as they come, taken in a thread: keys are answered while a server is not."""
    found: SimpleQueue[Now | BaseException] = SimpleQueue()

    def take() -> None:
        try:
            for one in watch:
                found.put(one)
        except BaseException as error:
            found.put(error)

    threading.Thread(target=take, name="carousel-top", daemon=True).start()
    return found


@contextmanager
def _keys_at_once() -> Iterator[None]:
    """Keys come without Enter and are not shown."""
    import termios
    import tty

    former = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, former)


def _wants_to_leave() -> bool:
    """Wait a moment for a key."""
    ready, _, _ = select.select([sys.stdin], [], [], TICK)
    if not ready:
        return False
    keys = os.read(sys.stdin.fileno(), 64)
    return not keys or b"q" in keys.lower()

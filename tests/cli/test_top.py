"""`carousel top`, in a real terminal where that matters."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.live import Live
from tests.conftest import RunningServer
from tests.processes import ServerProcess, until
from tests.terminal import Terminal

from carousel.cli.top_look import Growth, look
from carousel.cli.top_now import now
from carousel.cli.top_numbers import Past
from carousel.cli.top_view import Picture
from carousel.client import Client

from .conftest import COMMAND, Command

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


def watch(target: str, *more: str) -> list[str]:
    return [*COMMAND, "top", "--server", target, "-i", "200ms", *more]


def test_rates_are_differences_of_counters(own_server: RunningServer) -> None:
    with Client(own_server.target) as client, client.session("tiny") as session:
        session.step(np.zeros(3))
        before = look(client)
        session.chunk(np.zeros((7, 3)))
        for _ in range(5):
            session.step(np.zeros(3))
        after = look(client)
        growth = Growth(before, after)
        seconds = (after.statistics.create_time - before.statistics.create_time).total_seconds()
        seen = now(client.target, after, before)
        assert seen.rates is not None
        assert seen.rates.steps_per_second * seconds == pytest.approx(12)
        assert growth.rate("carousel_step_duration_seconds_count") * seconds == pytest.approx(5)
        assert seen.rates.batch_size == 1
        assert seen.rates.step_p50_seconds is not None
        assert seen.rates.step_p99_seconds is not None
        assert 0 < seen.rates.step_p50_seconds <= seen.rates.step_p99_seconds
        [tiny] = [one for one in seen.models if one.name == "tiny/1"]
        assert tiny.rates is not None
        assert tiny.rates.steps_per_second == seen.rates.steps_per_second
        [busiest, *_] = seen.sessions
        assert busiest.session.id == session.id
        assert busiest.steps_per_second == pytest.approx(seen.rates.steps_per_second)


def test_nothing_is_known_of_a_server_that_began_anew(own_server: RunningServer) -> None:
    with Client(own_server.target) as client:
        seen = look(client)
        before = replace(seen, info=replace(seen.info, instance_id="another"))
        assert now(client.target, seen, before).rates is None


def test_once_as_json_is_one_object_and_as_text_one_picture(carousel: Command) -> None:
    seen = carousel("top", "--once", "-i", "100ms", "--json").json
    assert seen["rates"]["steps_per_second"] == 0
    assert "models/tiny/versions/1" in seen["server"]["ready_versions"]
    done = carousel("top", "--once", "-i", "100ms")
    assert done.code == 0
    assert "tiny/1" in done.out
    assert "\x1b" not in done.out


@pytest.mark.parametrize(("columns", "wide"), [("", 100), ("72", 72)])
def test_into_a_pipe_lines_are_no_longer_than_people_read(
    carousel: Command, columns: str, wide: int
) -> None:
    lines = carousel("top", "--once", "-i", "100ms", COLUMNS=columns).out.splitlines()
    assert max(map(len, lines)) == wide


def test_once_without_a_server_is_exit_code_3(carousel: Command) -> None:
    assert carousel("top", "--once", "--target", "localhost:1").code == 3


@pytest.mark.parametrize(("width", "height"), [(40, 12), (100, 30), (160, 50)])
def test_a_screen_has_room_for_the_hint_whatever_there_is(
    own_server: RunningServer, width: int, height: int
) -> None:
    with Client(own_server.target) as client:
        sessions = [client.session("tiny") for _ in range(60)]
        seen = look(client)
        for session in sessions:
            session.close()
    console = Console(width=width, height=height, record=True, file=io.StringIO())
    with Live(console=console, screen=True, auto_refresh=False) as live:
        live.update(Picture(now(own_server.target, seen, None), Past(), hint="q leaves"))
        lines = console.render_lines(live.get_renderable())
    assert len(lines) <= height
    assert "q leaves" in "".join(part.text for part in lines[-1])


@needs_tmux
def test_it_fills_the_terminal_and_leaves_it_as_it_was(own_server: RunningServer) -> None:
    for key in ("q", "C-c"):
        with Terminal(watch(own_server.target)) as terminal:
            until(lambda: re.search(r"steps +0/s", terminal.text()) is not None)
            until(lambda: "q leaves" in terminal.text())  # it is drawn piece by piece
            assert terminal.fills_screen()
            terminal.press(key)
            until(lambda: "left with 0" in terminal.text())
            assert not terminal.fills_screen()
            assert "q leaves" not in terminal.text()
            terminal.type("echo typed again\n")
            until(lambda: "echo typed again\ntyped again" in terminal.text())


@needs_tmux
def test_it_shows_what_moves_at_any_size(own_server: RunningServer) -> None:
    with Client(own_server.target) as client, Terminal(watch(own_server.target)) as terminal:
        with client.session("tiny", session_id="a-session-that-steps") as session:

            def moves() -> bool:
                session.step(np.zeros(3))
                text = terminal.text()
                return re.search(r"a-session-that-steps +tiny/1 +\d+ +[1-9]", text) is not None

            until(moves)
            for width, height in ((40, 12), (160, 50)):
                terminal.resize(width, height)
                until(lambda: "q leaves" in terminal.text())
                until(moves if width > 100 else lambda: "steps" in terminal.text())
        until(lambda: "a-session-that-steps" not in terminal.text())
        terminal.press("q")


@pytest.fixture
def mortal(tmp_path: Path, model_store: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path, store=model_store) as server:
        yield server


@needs_tmux
def test_it_outlives_its_server_and_goes_on_with_the_next(mortal: ServerProcess) -> None:
    with (
        Terminal(watch(mortal.target)) as terminal,
        subprocess.Popen(
            watch(mortal.target, "--json"), stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        lines = (json.loads(line) for line in process.stdout)
        assert next(lines)["rates"] is None
        assert next(lines)["rates"]["steps_per_second"] == 0
        until(lambda: "steps/s" in terminal.text())
        mortal.kill()
        until(lambda: "does not answer" in terminal.text())
        assert terminal.fills_screen()
        assert next(line for line in lines if line["server"] is None)["trouble"]
        mortal.start()
        assert next(line for line in lines if line["server"] is not None)["rates"] is None
        until(lambda: "does not answer" not in terminal.text() and "0/s" in terminal.text())
        terminal.press("q")
        until(lambda: "left with 0" in terminal.text())
        process.terminate()

"""`carousel demo` from the outside."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.processes import PATIENCE

from .conftest import COMMAND, Command, environment


def test_the_demo_tells_the_whole_story(carousel: Command) -> None:
    # A user's own settings must not matter, nor a user's own server be touched.
    before = carousel("stats", "carousel_sessions_created", "--json").out
    done = carousel("demo", "--train", "3s", timeout=PATIENCE, CAROUSEL_PORT="nonsense")
    assert done.code == 0, done.err
    assert carousel("stats", "carousel_sessions_created", "--json").out == before
    assert "\x1b" not in done.out
    for sign in (
        r"carousel serve listens on localhost:\d+ as process \d+",
        r"step \d+ of 75: loss [\d.]+",
        r"bits per character +[\d.]+",
        r"python-docs/1, served beside .* \| The\b",
        r"alice, process \d+ *\| In the beginning",
        r"bob, process \d+ *\| And Moses",
        r"alice, seed 3 *\| ",
        r"1999-12 +84\.6",
        r"carousel_forks_total +king-james +0 +3",
        r"carousel_steps_total +sunspots +0 +60",
        r"drained and left with exit code 0",
        r"can be seen on http://localhost:\d+/",
        r"status page on http://localhost:9464/\n.*\n.*dashboards on http://localhost:3000/",
    ):
        assert re.search(sign, done.out), sign


def test_a_demo_that_is_ended_while_it_trains_leaves_no_process_behind(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [*COMMAND, "demo"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(TMPDIR=str(tmp_path)),  # what it starts has this in its arguments
    )
    try:
        assert demo.stdout is not None
        assert any("step 5 of 1,500" in line for line in demo.stdout)
        assert len(list(_processes_on(tmp_path))) >= 2
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(PATIENCE) == 128 + signal.SIGTERM
        assert list(_processes_on(tmp_path)) == []
        assert list(tmp_path.glob("carousel-demo-*")) == []
    finally:
        demo.kill()
        demo.communicate()


def _processes_on(folder: Path) -> Iterator[str]:
    """Command lines of this machine that name a folder."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in (line := file.read_bytes()):
                yield line.replace(b"\0", b" ").decode()

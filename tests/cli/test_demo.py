"""`carousel demo` from the outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import pytest

from .conftest import COMMAND, Command, environment


def test_the_demo_tells_the_whole_story_in_half_a_minute(carousel: Command) -> None:
    begin = time.monotonic()
    # A user's own settings must not matter, nor a user's own server be touched.
    before = carousel("stats", "carousel_sessions_created", "--json").out
    done = carousel("demo", timeout=60, CAROUSEL_PORT="nonsense")
    assert done.code == 0, done.err
    assert carousel("stats", "carousel_sessions_created", "--json").out == before
    assert time.monotonic() - begin < 30
    assert "\x1b" not in done.out
    for sign in (
        r"carousel serve listens on localhost:\d+ as process \d+",
        r"alice, process \d+ *\| In the beginning",
        r"bob, process \d+ *\| And Moses",
        r"alice, seed 3 *\| ",
        r"1999-12 +84\.6",
        r"carousel_forks_total +king-james +0 +3",
        r"carousel_steps_total +sunspots +0 +60",
        r"drained and left with exit code 0",
    ):
        assert re.search(sign, done.out), sign


def test_a_demo_that_is_ended_early_leaves_no_process_behind(carousel: Command) -> None:
    demo = subprocess.Popen(
        [*COMMAND, "demo"], stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        assert demo.stdout is not None
        server = next(m for line in demo.stdout if (m := re.search(r"as process (\d+)", line)))
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(20) == 128 + signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            os.kill(int(server[1]), 0)
        demo.stdout.close()
    finally:
        demo.kill()
        demo.wait()

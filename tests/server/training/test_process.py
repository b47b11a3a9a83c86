"""Processes are known again, hide what is secret, and are read to their last whole line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from carousel.server.training.events import read_new
from carousel.server.training.process import Process, Share, signal_all, start


def test_a_process_is_known_by_its_id_and_start(tmp_path: Path) -> None:
    process = start([sys.executable, "-c", "input()"], tmp_path, Share())
    assert process.child is not None
    process.child.wait()  # it has no standard input
    assert Process.find(process.pid, process.start) is None
    assert not process.alive
    process = start(["sleep", "60"], tmp_path, Share())
    assert process.child is not None
    found = Process.find(process.pid, process.start)
    assert found is not None
    assert found.alive
    assert Process.find(process.pid, process.start + 1) is None  # the id was used again
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == Share().niceness
    if (
        group := Path(f"/proc/{process.pid}/autogroup")
    ).exists():  # sessions share before processes
        assert group.read_text().endswith(f"nice {Share().niceness}\n")
    assert os.getsid(process.pid) == process.pid
    while not signal_all(tmp_path, signal.SIGKILL):
        assert process.alive  # it has no environment yet
    process.child.wait()
    assert not found.alive


def test_a_process_learns_nothing_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAROUSEL_DATABASE_URL", "postgresql://me:secret@host/name")
    process = start(["env"], tmp_path, Share(threads=3))
    assert process.child is not None
    process.child.wait()
    said = (tmp_path / "log.txt").read_text()
    assert "secret" not in said
    assert "OMP_NUM_THREADS=3" in said


def test_events_are_read_to_the_last_whole_line(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    assert read_new(file, 0) == ([], 0)
    first, second = '{"type": "a", "time": 1}\n', '{"type": "b", "time": NaN}\n'
    file.write_text(first + second[:9])
    assert read_new(file, 0) == ([{"type": "a", "time": 1}], len(first))
    file.write_text(first + second + "not JSON\n")
    events, offset = read_new(file, len(first))
    assert events == [{"type": "b", "time": None}]
    assert offset == len(first + second) + len("not JSON\n")


def test_what_reads_data_does_not_wait_for_torch() -> None:
    modules = "carousel.server.training.prepare, carousel.server.training.describe"
    script = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0

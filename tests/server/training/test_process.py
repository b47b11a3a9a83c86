"""Processes are known again, hide what is secret, and are read to their last whole line."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest

from carousel.errors import DatasetInvalid
from carousel.server.training import process as processes
from carousel.server.training.child import run_child
from carousel.server.training.events import read_new
from carousel.server.training.process import Process, Share, bound_memory, signal_all, start


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
    for name in (
        "CAROUSEL_DATABASE_URL",
        "CAROUSEL_SESSION_STORE",
        "CAROUSEL_STATE_KEY_FILE",
        "PGPASSWORD",
        "OTEL_EXPORTER_OTLP_HEADERS",
    ):
        monkeypatch.setenv(name, "postgresql://me:secret@host/name")
    process = start(["env"], tmp_path, Share(threads=3))
    assert process.child is not None
    process.child.wait()
    said = (tmp_path / "log.txt").read_text()
    assert "secret" not in said
    assert "OMP_NUM_THREADS=3" in said


def test_who_reads_a_stranger_s_file_has_bounded_memory_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Parquet file of some kilobytes whose first batch would be 32 GB."""
    value = pa.DictionaryArray.from_arrays(np.zeros(16_384, np.int32), ["a" * 2_000_000])
    bomb = tmp_path / "bomb.parquet"
    pa_parquet.write_table(pa.table({"a": value}), bomb, compression="gzip")
    assert bomb.stat().st_size < 100_000
    monkeypatch.setattr(processes, "READER_BYTES", 2**29)
    with (
        bomb.open("rb") as data,
        pytest.raises(DatasetInvalid, match=r"the file is not parquet: .*memory|malloc"),
    ):
        run_child("describe", "parquet", share=Share(), seconds=120, data=data)


def test_the_bound_of_memory_is_the_process_s_own(tmp_path: Path) -> None:
    reader = start(["sleep", "60"], tmp_path, Share())
    assert reader.child is not None
    bound_memory(reader.pid)
    assert resource.prlimit(reader.pid, resource.RLIMIT_DATA) == (processes.READER_BYTES,) * 2
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] != processes.READER_BYTES
    reader.child.kill()
    reader.child.wait()


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

"""The file of the access log and its thread: rotation, full disks, too much at once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from carousel.server.access_log import AccessLogMetrics, RotatingFile, Writer
from tests.processes import PATIENCE


def counts(registry: CollectorRegistry) -> dict[str, float]:
    def value(name: str, **labels: str) -> float:
        found = registry.get_sample_value(f"carousel_access_log_{name}_total", labels)
        assert found is not None
        return found

    return {
        "written": value("written"),
        "queue": value("lost", reason="queue"),
        "file": value("lost", reason="file"),
    }


@contextmanager
def writer(file: RotatingFile, **given: int) -> Iterator[tuple[Writer, CollectorRegistry]]:
    registry = CollectorRegistry()
    made = Writer(file, AccessLogMetrics(registry), **given)
    yield made, registry
    made.close()


def numbers(*files: Path) -> list[int]:
    return [json.loads(line)["n"] for file in files for line in file.read_text().splitlines()]


def test_lines_are_in_order_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "new" / "access.log"
    with writer(RotatingFile(path, limit=2**20, keep=1)) as (log, registry):
        for n in range(1000):
            log.put({"n": n})
    assert numbers(path) == list(range(1000))
    assert path.stat().st_mode & 0o777 == 0o600
    assert counts(registry) == {"written": 1000, "queue": 0, "file": 0}


def test_full_files_are_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    file = RotatingFile(path, limit=100, keep=2)
    for n in range(60):
        file.write(json.dumps({"n": n}).encode() + b"\n")  # 8 or 9 bytes each
    file.close()
    parts = [tmp_path / "access.log.2", tmp_path / "access.log.1", path]
    assert sorted(tmp_path.iterdir()) == sorted(parts)
    assert numbers(*parts) == list(range(numbers(parts[0])[0], 60))
    assert all(part.stat().st_size <= 100 for part in parts)
    assert all(part.stat().st_mode & 0o777 == 0o600 for part in parts)


def test_with_nothing_kept_there_is_one_file(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "access.log", limit=20, keep=0)
    for n in range(10):
        file.write(json.dumps({"n": n}).encode() + b"\n")
    file.close()
    assert [one.name for one in tmp_path.iterdir()] == ["access.log"]
    assert numbers(tmp_path / "access.log") == [8, 9]


def test_a_file_that_others_move_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    file = RotatingFile(path, limit=2**20, keep=1)
    file.write(b'{"n": 1}\n')
    path.rename(tmp_path / "moved")
    file.write(b'{"n": 2}\n')
    file.close()
    assert (numbers(tmp_path / "moved"), numbers(path)) == ([1], [2])


def test_half_a_line_of_a_server_that_was_killed_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text('{"n": 1}\n{"n"')
    file = RotatingFile(path, limit=2**20, keep=1)
    file.write(b'{"n": 3}\n')
    file.close()
    assert path.read_text() == '{"n": 1}\n{"n"\n{"n": 3}\n'


FULL_DISK = """
import json, resource, signal, sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from carousel.server.access_log import AccessLogMetrics, RotatingFile, Writer
from tests.processes import until
from tests.server.access_log.test_files import counts

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
registry = CollectorRegistry()
log = Writer(RotatingFile(Path(sys.argv[1]), limit=2**20, keep=1), AccessLogMetrics(registry))
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
for n in range(4):
    log.put({"n": n})
    until(lambda: sum(counts(registry).values()) == n + 1)
lost = counts(registry)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
log.put({"n": 4})
log.close()
print(json.dumps([lost, counts(registry)]))
"""


def test_what_a_full_disk_does_not_take_is_counted_and_told_and_then_it_goes_on(
    tmp_path: Path,
) -> None:
    """The system refuses a file above a size as it does on a full disk; in a process of its own."""
    path = tmp_path / "access.log"
    ran = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, timeout=PATIENCE
    )
    assert ran.returncode == 0, ran.stderr
    during, after = json.loads(ran.stdout)
    assert during == {"written": 2, "queue": 0, "file": 2}  # 18 bytes fit into 20
    assert after == {"written": 3, "queue": 0, "file": 2}
    assert ran.stderr.count("can't be written, lines are lost") == 1
    assert "is written again; 2 lines were lost" in ran.stderr
    assert path.read_text().splitlines()[-1] == '{"n": 4}'


def test_more_than_may_wait_is_lost_and_counted_and_nobody_waits(tmp_path: Path) -> None:
    release = threading.Event()

    class Slow(RotatingFile):
        def write(self, lines: bytes) -> None:
            release.wait(PATIENCE)
            super().write(lines)

    path = tmp_path / "access.log"
    with writer(Slow(path, limit=2**20, keep=1), waiting=5) as (log, registry):
        for n in range(100):
            log.put({"n": n})
        assert counts(registry)["queue"] >= 90  # 5 may wait, and 5 be on their way
        release.set()
    told = counts(registry)
    assert told["written"] + told["queue"] == 100
    there = numbers(path)
    assert there == sorted(set(there))
    assert len(there) == told["written"]


def test_a_file_that_can_not_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        RotatingFile(tmp_path / "folder", limit=1, keep=1)

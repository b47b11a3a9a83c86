"""Processes beside the server: low in priority, in sessions of their own, found again after it.

A job's process outlives its server. It is known again by its id and the moment of its start, since
ids are used again; and all that it started by a variable in their environment, since torchrun
puts each worker into a session of its own.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from carousel.server import slices

OOM_SCORE = 500  # where memory runs out, a job goes before the server does
READER_BYTES = 8 * 2**30  # files of any size are read in pieces; 1 GiB has been enough
MARK = "TRAINING_FOLDER"
# Data comes to a process open: of a path, who can write in its folder would have the last word.
DATA = Path("/proc/self/fd/0")
# Of the server, of the client of PostgreSQL, and of traces, which may be sent with a key.
SETTINGS = ("CAROUSEL_", "PG", "OTEL_")
THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
MAX_RESTARTS = 3  # of workers by torchrun


@dataclass(frozen=True, slots=True)
class Share:
    """What a process beside the server may have of the machine: threads, and time that is left.

    The higher `niceness` (0 to 19), the more it gives way to what else wants to compute.
    """

    threads: int = 1
    niceness: int = 10


@dataclass(frozen=True, slots=True)
class Process:
    """A process by its id and the moment of its start, in ticks since the machine's boot."""

    pid: int
    start: int
    child: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        if self.child is not None:
            return self.child.poll() is None
        return _start_of(self.pid) == self.start

    def signal(self, number: signal.Signals) -> None:
        """To itself alone; harmless when it is gone."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    @classmethod
    def find(cls, pid: int, start: int) -> Process | None:
        """One that an earlier server started; None when it is gone."""
        found = cls(pid, start)
        return found if pid and found.alive else None


def machine() -> str:
    """Where process ids mean the same: one boot of one machine, within one container."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def training_command(folder: Path, workers: int) -> list[str]:
    """The command that trains: torchrun only where there are several workers to hold together."""
    module = ["-m", "carousel.model.training", str(folder)]
    if workers == 1:
        return [sys.executable, *module]
    return [
        sys.executable,
        *("-m", "torch.distributed.run", "--standalone"),
        f"--nproc-per-node={workers}",
        f"--max-restarts={MAX_RESTARTS}",
        *module,
    ]


def preparing_command(kind: str, folder: Path) -> list[str]:
    """The command that makes the corpus of its data."""
    return [sys.executable, "-m", "carousel.server.training.prepare", kind, str(folder)]


def start(
    command: list[str], folder: Path, share: Share, *, data: BinaryIO | None = None
) -> Process:
    """Start it in a session of its own; what it prints goes to log.txt in the folder."""
    with (folder / "log.txt").open("ab") as log:
        child = subprocess.Popen(
            command,
            stdin=data or subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(share) | {MARK: str(folder)},
            start_new_session=True,
        )
    yield_to_server(child.pid, share)
    # A child that ended already has its place in /proc until somebody asks for its status.
    return Process(child.pid, _start_of(child.pid, zombie=True) or 0, child)


def environment(share: Share) -> dict[str, str]:
    """The server's own without its settings, among which there may be a password."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(SETTINGS)}
    limits = dict.fromkeys(THREAD_LIMITS, str(share.threads))
    # The folder that the server was started in is nobody's place for modules.
    return inherited | limits | {"OMP_WAIT_POLICY": "passive", "PYTHONSAFEPATH": "1"}


def bound_memory(pid: int) -> None:
    """Of a process that reads a stranger's file: a small one may say that it is endless."""
    with contextlib.suppress(OSError, ValueError):
        resource.prlimit(pid, resource.RLIMIT_DATA, (READER_BYTES, READER_BYTES))


def yield_to_server(pid: int, share: Share) -> None:
    """Let the server's turns come first, in time and in memory."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE))
        os.setpriority(os.PRIO_PROCESS, pid, share.niceness)
        slices.set_slice(slices.USUAL, thread=pid)
        # Linux may share between sessions first, and a job has one of its own.
        Path(f"/proc/{pid}/autogroup").write_text(str(share.niceness))


def members(folder: Path) -> list[int]:
    """The ids of the job's processes, by the job's folder.

    One that was started this very moment may be missed: it has no environment yet.
    """
    mark, found = f"{MARK}={folder}".encode(), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # gone meanwhile, or somebody else's
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def signal_all(folder: Path, number: signal.Signals) -> int:
    """Send a signal to every process of the job in this folder; returns how many there were."""
    found = members(folder)
    for pid in found:
        with contextlib.suppress(OSError):
            os.kill(pid, number)
    return len(found)


def _start_of(pid: int, *, zombie: bool = False) -> int | None:
    """Field 22 of /proc/PID/stat; the name in field 2 may itself contain spaces and brackets."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19]) if zombie or fields[0] not in "ZX" else None

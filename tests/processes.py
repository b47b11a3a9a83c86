"""The real server as a process that tests may kill, pause and start again at the same address."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from tests.ports import free_port

PATIENCE = 240.0  # seconds: on a busy machine too, only what hangs takes so long


class ServerProcess:
    """`carousel serve` on a free port, which it keeps over restarts; flags by their names.

    What it trains does not wait for others on the machine.
    """

    def __init__(self, folder: Path, *, store: Path, **flags: object) -> None:
        self.folder = folder
        self.flags = {"store": store, "data": folder / "data", "http_port": "off", **flags}
        self.flags.setdefault("training_niceness", 0)
        self._port = free_port()
        self.http = ""  # the address of its HTTP port
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def target(self) -> str:
        return f"localhost:{self._port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def launch(self) -> None:
        """Start it, without waiting until it listens."""
        command = [sys.executable, "-m", "carousel.cli", "serve", "--json", "--no-shipped"]
        command += ["--port", str(self._port), "--log-level", "warning"]
        for name, value in self.flags.items():
            flag = "--" + name.replace("_", "-")
            command += [flag] if value is True else [flag, str(value)]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )

    def wait_ready(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.folder / "server.log").read_text()
        told = json.loads(line)
        self._port = int(told["target"].rsplit(":", 1)[1])
        self.http = told["http"] or ""

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE)
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None

    def terminate(self) -> int:
        """Ask it to drain; its exit status."""
        assert self.process is not None
        self.process.terminate()
        status = self.process.wait(PATIENCE)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None
        return status

    def restart(self) -> None:
        """Kill it and start another one in its place."""
        self.kill()
        self.start()


def until(condition: object, seconds: float = PATIENCE) -> None:
    """Wait until something outside of this process has come true."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)

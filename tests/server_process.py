"""The real server in a process of its own, which can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self


class ServerProcess:
    """`carousel serve` on a free port of this machine, ready when it is made.

    What the server logs goes to `log`, or nowhere; what it trains waits for nobody else.
    """

    def __init__(self, *options: object, log: Path | None = None) -> None:
        command = [sys.executable, "-m", "carousel.cli", "serve", "--json", "--port", "0"]
        command += ["--http-port", "off", "--training-niceness", "0", *map(str, options)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CAROUSEL_")}
        with (log or Path(os.devnull)).open("a") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if not said:
            raise RuntimeError(f"the server ended with status {self.process.wait()}")
        self.target: str = json.loads(said)["target"]

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """As a machine that loses its power; harmless when it is gone."""
        self.process.kill()
        self._reap(30)

    def stop(self, seconds: float = 60) -> None:
        """As an operator does: drained, then gone."""
        self.process.send_signal(signal.SIGTERM)
        self._reap(seconds)

    def _reap(self, seconds: float) -> None:
        self.process.wait(seconds)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.kill()

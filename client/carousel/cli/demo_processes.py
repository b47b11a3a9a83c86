"""The processes of the demo: a server, and clients that generate. Each is ended by its id."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

COMMAND = (sys.executable, "-m", "carousel.cli")
START_SECONDS = 60.0
END_SECONDS = 60.0  # more than a server takes to drain, with jobs that only it can end


class CannotStart(Exception):
    """A process of the demo did not come up; the message says why."""


def _environment() -> dict[str, str]:
    """Without the user's settings: the demo is the same for everyone."""
    return {k: v for k, v in os.environ.items() if not k.startswith("CAROUSEL_")}


def _start(arguments: list[str], **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        env=_environment(),
        text=True,
        start_new_session=True,  # Ctrl-C is for the demo, which then ends the others in order
        **more,
    )


def _end(process: subprocess.Popen[str]) -> int:
    """Ask it to leave, and after a while make it."""
    if process.poll() is None:
        process.terminate()
    try:
        code = process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    if process.stdout is not None:
        process.stdout.close()
    return code


class ServerProcess:
    """`carousel serve` on a free port, with only the models that come with Carousel.

    Leaving the `with` block ends it, whatever happened.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="carousel-demo-")
        self._log = Path(self._folder.name) / "log"
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()

    def start(self) -> None:
        """Returns when it is ready. Raises CannotStart."""
        begin = time.monotonic()
        store = Path(self._folder.name) / "models"
        free = ["--port", "0", "--http-port", "0", "--store", str(store)]
        with self._log.open("w") as log:
            self._process = _start(["serve", "--json", *free], stderr=log)
        told = self._wait_until_ready(self._process)
        self.target, self.page = str(told["target"]), f"{told['http']}/"
        self.pid = self._process.pid
        self.seconds = time.monotonic() - begin

    def stop(self) -> tuple[int, float]:
        """Its exit code, and how long it took."""
        begin = time.monotonic()
        code = 0 if self._process is None else _end(self._process)
        return code, time.monotonic() - begin

    def _wait_until_ready(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Where it listens: the line that it prints when it is ready."""
        assert process.stdout is not None
        too_late = threading.Timer(START_SECONDS, process.kill)
        too_late.start()
        try:
            line = process.stdout.readline()
        finally:
            too_late.cancel()
        if line:
            return dict(json.loads(line))
        process.wait(END_SECONDS)
        said = self._log.read_text().strip()
        raise CannotStart(f"the server of the demo did not start:\n{said}")


class Generating:
    """`carousel generate` in a process of its own; iterating gives the texts as they come.

    Leaving the `with` block ends it.
    """

    def __init__(
        self,
        target: str,
        model: str,
        prompt: str,
        *,
        session: str,
        tokens: int,
        temperature: float,
        seed: int,
    ) -> None:
        arguments = ["generate", model, prompt, "--session", session, "--target", target]
        arguments += ["--max-tokens", str(tokens), "--temperature", str(temperature)]
        arguments += ["--seed", str(seed)]
        self.words = ["carousel", *arguments]
        self._process = _start([*arguments, "--json"], stderr=subprocess.PIPE)
        self.pid = self._process.pid
        self.text = ""

    def __iter__(self) -> Iterator[str]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = str(json.loads(line)["text"])
            self.text += text
            yield text

    def check(self) -> None:
        """Raises CannotStart when it did not end well."""
        assert self._process.stderr is not None
        said = self._process.stderr.read().strip()
        if self._process.wait(END_SECONDS):
            raise CannotStart(f"{shlex.join(self.words)} failed:\n{said}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._process)
        if self._process.stderr is not None:
            self._process.stderr.close()


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does: with its processes."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    former = {n: signal.signal(n, leave) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)

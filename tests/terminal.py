"""A real terminal: a command in tmux, its keys and its screen."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.processes import PATIENCE


class Terminal:
    """A command in a terminal of its own. It begins in a shell, which shows what it left behind."""

    def __init__(self, command: list[str], *, width: int = 100, height: int = 30) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="carousel-tmux-")
        self._socket = str(Path(self._folder.name) / "socket")
        size = ["-x", str(width), "-y", str(height)]
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
        self._tmux(
            "-f", "/dev/null", "new-session", "-d", *size, "env", "PS1=$ ", "sh", "-i", env=kept
        )
        self._tmux("set-option", "-g", "default-terminal", "tmux-256color")
        self.type(shlex.join(command) + "; echo left with $?\n")

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def press(self, key: str) -> None:
        """A key by tmux's name, such as C-c."""
        self._tmux("send-keys", key)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def text(self, *, colours: bool = False) -> str:
        """What stands on the screen."""
        return self._tmux("capture-pane", "-p", *(["-e"] if colours else []))

    def fills_screen(self) -> bool:
        """Whether a program has the whole screen: the terminal's alternate one."""
        return self._tmux("display-message", "-p", "#{alternate_on}").strip() == "1"

    def _tmux(self, *words: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
            env=env,
        )
        return done.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")
        self._folder.cleanup()

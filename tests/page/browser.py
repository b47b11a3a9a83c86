"""Chromium, driven by a Node process that is told what to do line by line."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

from tests.processes import PATIENCE

FOLDER = Path(__file__).parent / "browser"


def missing() -> str:
    """What a browser would need here and is not installed; empty: all is there."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node and npm are not installed (Debian: apt-get install nodejs npm)"
    if _chromium() is None:
        return "chromium is not installed (Debian: apt-get install chromium)"
    return ""


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


def _install() -> None:
    """What drives it, once: whoever else wants it meanwhile waits until it is whole."""
    with (FOLDER / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (FOLDER / "node_modules" / ".package-lock.json").is_file():  # npm writes it last
            subprocess.run(["npm", "ci", "--silent"], cwd=FOLDER, check=True, timeout=PATIENCE)


class Browser:
    """One page at a time. Scripts are expressions of JavaScript, and give what JSON can hold."""

    def __init__(self) -> None:
        self._url = ""
        _install()
        self._process = subprocess.Popen(
            ["node", "browser.js", str(_chromium())],
            cwd=FOLDER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def open(self, url: str, **more: Any) -> None:
        """A new page; `width`, `height`, `scheme` (light or dark), `density`."""
        self._do("open", url=url, **more)
        self._url = url

    def is_at(self, url: str) -> bool:
        """Whether this page is open."""
        return self._url == url

    def evaluate(self, script: str) -> Any:
        return self._do("evaluate", script=script)

    def wait(self, script: str, seconds: float = PATIENCE) -> None:
        """Until the expression is true."""
        self._do("wait", script=script, timeout=seconds * 1000)

    def press(self, key: str) -> None:
        self._do("press", key=key)

    def type(self, text: str) -> None:
        self._do("type", text=text)

    def asked(self) -> list[str]:
        """The addresses of all that the page asked for."""
        return list(self._do("seen")["asked"])

    def troubles(self) -> list[str]:
        """What went wrong in the page: exceptions, refusals by its policy, failed requests."""
        return list(self._do("seen")["troubles"])

    def picture(self, path: Path, *, selector: str = "", full: bool = False) -> None:
        self._do("picture", path=str(path), selector=selector, full=full)

    def violations(self) -> list[Any]:
        """What axe-core holds against the page, from serious on."""
        return list(self._do("axe"))

    def _do(self, deed: str, **given: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"deed": deed, **given}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the browser is gone"
        answer = json.loads(line)
        assert "error" not in answer, answer
        return answer["value"]

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

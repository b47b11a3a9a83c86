"""The README's examples run, as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

from tests.conftest import RunningServer

README = Path(__file__).parents[1] / "README.md"


def example(number: int, server: RunningServer, folder: Path, **changes: str) -> str:
    """What an example of the README prints, on this server, with some numbers changed."""
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)[number]
    for old, new in {"localhost:50051": server.target, **changes}.items():
        assert old in code
        code = code.replace(old, new)
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_client_example_runs(server: RunningServer, tmp_path: Path) -> None:
    text, counts, *readings = example(0, server, tmp_path).rsplit("\n", 5)[:-1]
    assert len(text.strip()) > 40
    assert counts.split() == [str(len("In the beginning ") + 60)] * 2
    assert len(readings) == 3
    assert all(re.fullmatch(r"\[ *-?\d+\.?\d*\]", reading) for reading in readings)


def test_the_training_example_runs(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "sonnets.txt").write_text("".join(topics.values())[:60_000])
    last = example(1, server, tmp_path, **{"500": "20"}).splitlines()[-1]
    bits, version = last.split()
    assert 1 < float(bits) < 8
    assert version == "models/sonnets/versions/1"

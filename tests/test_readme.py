"""The README's client example runs, as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import RunningServer

README = Path(__file__).parents[1] / "README.md"


def test_the_client_example_runs(server: RunningServer) -> None:
    example = re.search(r"```python\n(.*?)```", README.read_text(), re.S)
    assert example is not None
    code = example[1].replace("localhost:50051", server.target)
    assert code != example[1]
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    text, counts, *readings = ran.stdout.rsplit("\n", 5)[:-1]
    assert len(text.strip()) > 40
    assert counts.split() == [str(len("In the beginning ") + 60)] * 2
    assert len(readings) == 3
    assert all(re.fullmatch(r"\[ *-?\d+\.?\d*\]", reading) for reading in readings)

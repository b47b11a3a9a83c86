"""The README's examples run, as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch

from carousel.model import load
from carousel.model.zoo import shipped
from tests.conftest import RunningServer
from tests.ports import free_port
from tests.processes import PATIENCE

README = Path(__file__).parents[1] / "README.md"


def example(number: int, target: str, folder: Path, **changes: str) -> str:
    """What an example of the README prints, on this server, with some numbers changed."""
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)[number]
    for old, new in {"localhost:50051": target, **changes}.items():
        assert old in code
        code = code.replace(old, new)
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=folder,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_client_example_runs(server: RunningServer, tmp_path: Path) -> None:
    text, counts, *readings = example(0, server.target, tmp_path).rsplit("\n", 5)[:-1]
    assert len(text.strip()) > 40
    assert counts.split() == [str(len("In the beginning ") + 60)] * 2
    assert len(readings) == 3
    assert all(re.fullmatch(r"\[ *-?\d+\.?\d*\]", reading) for reading in readings)


def test_the_training_example_runs(server: RunningServer, tmp_path: Path) -> None:
    (tmp_path / "sonnets.txt").write_text("".join(topics.values())[:60_000])
    last = example(2, server.target, tmp_path, **{"500": "20"}).splitlines()[-1]
    bits, version = last.split()
    assert 1 < float(bits) < 8
    assert version == "models/sonnets/versions/1"


def test_the_stream_goes_on_after_kill_9(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "carousel.cli", "serve", "--port", str(port)]
    command += ["--http-port", "off", "--store", str(tmp_path / "models"), "--log-level", "error"]
    printed = example(1, f"localhost:{port}", tmp_path, **{'["carousel", "serve"]': repr(command)})
    lines = re.findall(r"^(\d+) \[ *(-?[\d.]+) *\] (\d+)$", printed, re.M)
    assert [int(month) for month, _, _ in lines] == list(range(40))
    network = load(shipped()["sunspots"] / "1").double().eval()
    months = torch.arange(100.0, 140.0, dtype=torch.float64)[None, :, None]
    with torch.no_grad():
        outputs, _ = network(months, network.initial_rows(1))
    told = [float(value) for _, value, _ in lines]
    assert told == pytest.approx(outputs[0, :, 0].tolist(), rel=1e-4)

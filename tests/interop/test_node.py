"""A client in another language, made from the protos alone, gets the reference's numbers."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch

from carousel.model import load
from tests.conftest import RunningServer
from tests.processes import PATIENCE

NODE = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def node() -> str:
    """Node with the packages of the lock file."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        pytest.skip("node and npm are not installed (Debian: apt-get install nodejs npm)")
    if not (NODE / "node_modules" / "@grpc" / "grpc-js").is_dir():
        subprocess.run([npm, "ci", "--silent"], cwd=NODE, check=True, timeout=PATIENCE)
    return program


def test_a_node_client_opens_a_session_and_steps_it(server: RunningServer, node: str) -> None:
    inputs = np.random.default_rng(3).standard_normal((12, 3)).astype(np.float32)
    ran = subprocess.run(
        [node, "client.js", server.target, "models/tiny"],
        cwd=NODE,
        input=json.dumps(inputs.tolist()),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    got = json.loads(ran.stdout)
    network = load(server.settings.store / "tiny" / "1").double().eval()
    with torch.no_grad():
        y, _ = network(torch.from_numpy(inputs).double()[None], network.initial_rows(1))
    np.testing.assert_allclose(got["unary"], y[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.reshape(got["stream"], (12, 2)), y[0], rtol=1e-5, atol=1e-6)
    assert got["refused"]["code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert "no-such-model" in got["refused"]["details"]

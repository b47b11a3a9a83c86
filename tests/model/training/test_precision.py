"""A machine that can't compute in bfloat16 refuses to learn so before anything begins."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from carousel.model.errors import ConfigError
from carousel.model.training.precision import check_precision, has_bfloat16

CHECK = """
from carousel.model.data import ForecastTask
from carousel.model.training import Recipe, Trainer
recipe = Recipe(task=ForecastTask(targets=("y",)), precision="bfloat16")
try:
    Trainer(recipe, None, "/nowhere")
except ValueError as error:
    print(type(error).__name__, error)
"""


def test_a_cpu_without_its_instructions_refuses_bfloat16() -> None:
    # So oneDNN takes any x86 for an older one.
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("ConfigError precision must be float32 here, got bfloat16")


def test_what_is_said_is_what_the_machine_does() -> None:
    """Forwards and backwards, as in training."""
    network, x = torch.nn.LSTM(4, 8, 2), torch.zeros(3, 2, 4)
    if has_bfloat16():
        check_precision("bfloat16")
        with torch.autocast("cpu", torch.bfloat16):
            y, _ = network(x)
        y.float().sum().backward()
    else:
        with pytest.raises(ConfigError, match="must be float32"):
            check_precision("bfloat16")
        with pytest.raises(RuntimeError), torch.autocast("cpu", torch.bfloat16):
            network(x)
    check_precision("float32")

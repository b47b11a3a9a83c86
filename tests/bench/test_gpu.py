"""The loops of the suite `gpu` run, on a CPU, and what they time is right."""

import pytest
import torch

from tests.bench.gpu import ARMS
from tests.bench.gpu_loops import CALLS, Gpu


@pytest.mark.parametrize("what", ARMS)
@torch.no_grad()
def test_every_loop_runs(what: str) -> None:
    call, steps = Gpu("cpu", "bfloat16", 9, 8).call(what)
    call()
    call()
    assert steps in (9, 9 * CALLS)


@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-5), ("float16", 6e-3)])
@torch.no_grad()
def test_what_is_timed_is_near_the_reference(precision: str, most: float) -> None:
    assert Gpu("cpu", precision, 9, 8).error() < most

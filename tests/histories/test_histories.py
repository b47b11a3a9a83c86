"""Two hundred random histories; `make soak` runs ten thousand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.histories.machine import Histories
from tests.histories.world import World
from tests.oracle import Oracle

EXAMPLES = int(os.environ.get("HISTORIES", "200"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, model_store: Path) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world"), model_store)
    yield world
    world.close()


def test_every_history_fits_the_oracle(world: World, model_store: Path) -> None:
    Histories.world = world
    Histories.oracle = Oracle(model_store / "tiny" / "1")
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            derandomize=EXAMPLES == 200,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )

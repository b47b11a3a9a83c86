"""`carousel bench` from the outside."""

from __future__ import annotations

from .conftest import Command


def test_the_ladder_is_climbed(carousel: Command) -> None:
    small = ("--hidden-size", 8, "--layers", 1, "--batch", 2, "--blocks", 1, "--seconds", 0.001)
    rungs = carousel("bench", "kernels", *small, "--json").json
    assert rungs[0]["speed_up"] == 1.0
    assert all(rung["steps_per_second"] or rung["note"] for rung in rungs)


def test_bench_alone_points_at_the_suite(carousel: Command) -> None:
    assert "make bench" in carousel("bench").out

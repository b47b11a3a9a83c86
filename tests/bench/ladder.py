"""The ladder of accelerations, from one gate and one session at a time to everything at once."""

from __future__ import annotations

from dataclasses import asdict

from tests.bench.bench import Bench


def measure(bench: Bench) -> None:
    """The arms of `carousel bench kernels`, in the process of the bare loops."""
    for rung in bench.bare.ask("ladder", bench.brief):
        bench.results.append({"suite": "ladder", "arm": rung.name, **asdict(rung)})
        if rung.speed_up is not None:
            bench.say(f"    ladder {rung.name:<44} {rung.speed_up:6.1f} x")

"""`carousel bench` from the outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Command, InProcess


def test_the_ladder_is_climbed(carousel: Command) -> None:
    small = ("--hidden-size", 8, "--layers", 1, "--batch", 2, "--blocks", 1, "--seconds", 0.001)
    rungs = carousel("bench", "kernels", *small, "--json").json
    assert rungs[0]["speed_up"] == 1.0
    assert all(rung["steps_per_second"] or rung["note"] for rung in rungs)


def test_bench_alone_points_at_the_suite(carousel: Command) -> None:
    assert "make bench" in carousel("bench").out


def test_the_price_of_int8_is_told_by_model_and_text(carousel: Command, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("In the beginning God created the heaven and the earth.\n" * 8)
    found = carousel("bench", "precision", "--text", text, "--steps", 20, "--json").json
    assert found["steps"] == 160
    assert (found["precision"], 0 < found["share"] < 0.05) == ("int8", True)
    half = ("--precision", "bfloat16", "--steps", 20, "--text", text)
    inside = InProcess("localhost:1")
    assert "in bfloat16: " in inside("bench", "precision", *half).out
    assert "bits a token" in inside("bench", "precision", "--text", text, "--steps", 20).out
    assert "bits" not in inside("bench", "precision", "sunspots", "--steps", 20).out
    refused = inside("bench", "precision", "sunspots", "--text", text)
    assert (refused.code, "models that read text" in refused.err) == (2, True)
    refused = inside("bench", "precision", "nobody")
    assert (refused.code, "one of king-james, sunspots" in refused.err) == (2, True)


def test_stages_of_a_load_add_up(carousel: Command) -> None:
    small = ("--hidden-size", 8, "--layers", 1, "--seconds", 0.1, "--load", "batch-64")
    rows = carousel("bench", "stages", *small, "--json").json
    *stages, whole = rows
    assert whole["stage"] == "whole"
    assert sum(row["share"] for row in stages) == pytest.approx(1.0)
    assert {row["messages"] for row in rows} == {whole["messages"]}
    assert whole["messages"] > 0
    assert sum(row["message_us"] for row in stages) == pytest.approx(whole["message_us"])

"""Quantities and metrics for people."""

from __future__ import annotations

import pytest
import typer

from carousel.cli.generate_view import harmless
from carousel.cli.metric_views import quantile
from carousel.cli.quantities import count, seconds, size, span


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("0.5d", 43200)]
)
def test_a_duration_is_read(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "soon", "-5s", "5 m", "1h30", "5y"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        seconds(text)


def test_quantities_are_short() -> None:
    spans = [span(s) for s in (12e-6, 0.35, 90, 300, 3540, 5400, 86_400)]
    assert spans == ["12 us", "350 ms", "90 s", "5 min", "59 min", "90 min", "1 d"]
    assert [size(b) for b in (512, 8192, 1.5 * 2**20)] == ["512 B", "8 KiB", "1.5 MiB"]
    assert [count(n) for n in (1_048_576, 0.25)] == ["1,048,576", "0.25"]


def test_a_quantile_is_interpolated_within_its_bucket() -> None:
    buckets = [(1.0, 0.0), (2.0, 10.0), (float("inf"), 10.0)]
    assert quantile(buckets, 0.5) == 1.5
    assert quantile([(1.0, 0.0), (float("inf"), 4.0)], 0.5) == 1.0
    assert quantile([], 0.5) == 0.0


def test_generated_text_cannot_steer_the_terminal() -> None:
    assert harmless("a\x1b[2Jb\r\n\tc") == "a\ufffd[2Jb\ufffd\n\tc"

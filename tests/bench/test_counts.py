"""No step costs more than it did: counts that no busy machine changes, against the baseline."""

from __future__ import annotations

import copy
import json

import pytest

from tests.bench import counts


def test_no_count_has_grown() -> None:
    baseline = json.loads(counts.BASELINE.read_text(encoding="utf-8"))
    if baseline["versions"] != counts.versions():
        pytest.skip(f"the baseline is of other versions: {baseline['versions']}")
    grown = counts.compare(counts.measure(), baseline["counts"])
    assert not grown, "if this is meant: python -m tests.bench.counts --accept"


@pytest.mark.parametrize("name", counts.LIMITS)
def test_a_count_that_grows_is_told(name: str) -> None:
    baseline = json.loads(counts.BASELINE.read_text(encoding="utf-8"))["counts"]
    found = copy.deepcopy(baseline)
    assert not counts.compare(found, baseline)
    share, more = counts.LIMITS[name]
    found["unary"][name] = baseline["unary"][name] * (1 + share) + more + 0.1
    (told,) = counts.compare(found, baseline)
    assert told.startswith(f"unary: {name} ")

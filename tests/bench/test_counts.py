"""No step costs more than it did: counts that no busy machine changes, against the baseline."""

from __future__ import annotations

import copy
import json

import pytest

from tests.bench import counts, instructions


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


@pytest.mark.skipif(instructions.missing() is not None, reason=str(instructions.missing()))
def test_no_part_takes_more_instructions() -> None:
    baseline = json.loads(instructions.BASELINE.read_text(encoding="utf-8"))
    if baseline["versions"] != instructions.versions():
        pytest.skip(f"the baseline is of other versions: {baseline['versions']}")
    grown = instructions.compare(instructions.counted(), baseline["instructions"])
    assert not grown, "if this is meant: python -m tests.bench.instructions --accept"


def test_instructions_that_grow_are_told() -> None:
    baseline = json.loads(instructions.BASELINE.read_text(encoding="utf-8"))["instructions"]
    assert not instructions.compare(baseline, baseline)
    found = baseline | {"read 1": baseline["read 1"] * (1 + instructions.GROWTH) + 1}
    (told,) = instructions.compare(found, baseline)
    assert told.startswith("read 1: ")

"""Names of metrics follow the rules that dashboards and alerts rely on."""

from __future__ import annotations

import re
from contextlib import closing

import pytest
from prometheus_client import Metric

from carousel.exporter import Exporter, Targets
from tests.conftest import RunningServer

LABELS = {
    *("model", "version", "reason", "layer", "gate", "device", "phase", "tier", "state", "action"),
    *("cell", "layers", "hidden_size", "kernel", "training_job", "target", "le"),
    *("grpc_type", "grpc_service", "grpc_method", "grpc_code", "credential", "result"),
}
NOT_BASE_UNITS = re.compile(
    r"_(ms|us|ns|millis\w*|micros\w*|minutes|hours|days|kb|mb|kib|mib|bits|percent\w*)(_|$)"
)
# Lives of sessions are minutes to months.
OTHER_BUCKETS = {"carousel_session_lifetime_seconds"}


@pytest.fixture(scope="module")
def found(server: RunningServer) -> list[Metric]:
    with closing(Exporter(Targets([server.target]))) as exporter:
        return exporter.read()


def test_names_begin_and_end_as_they_must(found: list[Metric]) -> None:
    for family in found:
        assert re.fullmatch(r"(carousel|grpc_server)_[a-z][a-z0-9_]*", family.name)
        assert not NOT_BASE_UNITS.search(family.name), family.name
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert family.type in ("counter", "gauge", "histogram")
        suffixes = {
            "counter": {"_total"},
            "gauge": {""},
            "histogram": {"_bucket", "_count", "_sum"},
        }[family.type]
        assert {one.name.removeprefix(family.name) for one in family.samples} <= suffixes


def test_help_is_a_sentence(found: list[Metric]) -> None:
    for family in found:
        assert re.fullmatch(r"[A-Z0-9].{3,}\.", family.documentation), family.name


def test_labels_are_few_and_bounded(found: list[Metric]) -> None:
    for family in found:
        for sample in family.samples:
            assert sample.labels.keys() <= LABELS, family.name


def test_times_are_told_from_20_microseconds_to_10_seconds(found: list[Metric]) -> None:
    for family in found:
        if family.type == "histogram" and family.unit == "seconds":
            bounds = [float(one.labels["le"]) for one in family.samples if "le" in one.labels]
            if bounds and family.name not in OTHER_BUCKETS:
                assert (min(bounds), sorted(set(bounds))[-2]) == (20e-6, 10.0), family.name

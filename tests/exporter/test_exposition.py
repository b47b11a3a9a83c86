"""The exposition: exemplars, formats, and the paths of an HTTP port."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter

from carousel import exposition, tensors
from carousel.server.histogram import Histogram
from carousel.v1 import inference_service_pb2 as pb
from tests.conftest import RunningServer
from tests.exporter.scrape import OPENMETRICS, families, get
from tests.server.contract import Wire


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    counter = Counter("carousel_cakes", 'All "cakes"\nand tarts.', ["model"], registry=registry)
    counter.labels('a "b"\\\n').inc(3)
    child = Histogram("carousel_bake_seconds", "Time.", ("model",), registry=registry).labels("x")
    child.observe(3e-5)
    child.observe(0.3, 4)
    child.remember(0.3, {"request_id": "r-1"}, 1000.5)
    child.remember(40.0, {"request_id": "r-2"}, 1001.0)
    return registry


@pytest.fixture
def url(registry: CollectorRegistry) -> Iterator[str]:
    def read(patience: float | None) -> Any:
        if patience == 13:
            raise RuntimeError("a bug")
        return exposition.families(exposition.statistics(registry))

    port = exposition.HttpServer("127.0.0.1", 0, exposition.routes(read, lambda: False))
    port.start()
    yield f"http://127.0.0.1:{port.port}"
    port.stop()


@pytest.mark.parametrize("accept", ["", "text/html", OPENMETRICS])
def test_what_is_read_is_what_was_counted_in_either_format(url: str, accept: str) -> None:
    cakes, time = sorted(families(url, accept=accept), key=lambda f: f.type)
    assert (cakes.name, cakes.type) == ("carousel_cakes", "counter")
    assert cakes.documentation == 'All "cakes"\nand tarts.'
    [sample] = cakes.samples
    assert (sample.labels, sample.value) == ({"model": 'a "b"\\\n'}, 3)
    buckets = {s.labels["le"]: s.value for s in time.samples if s.name.endswith("_bucket")}
    assert (buckets["2e-05"], buckets["5e-05"], buckets["0.5"], buckets["+Inf"]) == (0, 1, 5, 5)
    totals = {s.name: s.value for s in time.samples if not s.name.endswith("_bucket")}
    assert totals == {
        "carousel_bake_seconds_count": 5,
        "carousel_bake_seconds_sum": pytest.approx(1.20003),
    }


def test_exemplars_and_units_are_told_to_who_understands_them(url: str) -> None:
    found = {family.name: family for family in families(url, accept=OPENMETRICS)}
    time = found["carousel_bake_seconds"]
    assert time.unit == "seconds"
    exemplars = {s.labels["le"]: s.exemplar for s in time.samples if s.exemplar is not None}
    told = {
        le: (one.labels["request_id"], one.value, float(one.timestamp or 0))
        for le, one in exemplars.items()
    }
    assert told == {"0.5": ("r-1", 0.3, 1000.5), "+Inf": ("r-2", 40.0, 1001.0)}
    assert "r-1" not in get(f"{url}/metrics")[0]


def test_series_do_not_tell_when_they_began(url: str) -> None:
    for accept in ("", OPENMETRICS):
        body, _ = get(f"{url}/metrics", Accept=accept)
        assert "_total" in body
        assert "_created" not in body


def test_other_paths_states_and_faults_have_their_codes(url: str) -> None:
    assert get(f"{url}/healthz") == ("alive\n", "text/plain; charset=utf-8")
    for path, code, headers in (
        ("readyz", 503, {}),
        ("nothing", 404, {}),
        ("metrics", 500, {"X_Prometheus_Scrape_Timeout_Seconds": "13"}),
    ):
        with pytest.raises(urllib.error.HTTPError) as failure:
            get(f"{url}/{path}", **headers)
        assert failure.value.code == code
        failure.value.close()


def test_a_slow_step_can_be_found_by_the_id_of_its_request(server: RunningServer) -> None:
    own = f"http://localhost:{server.server.http_port}"
    with grpc.insecure_channel(server.target) as channel:
        wire = Wire(channel)
        handle = wire.create().handle
        stub: Any = wire.inference
        for index, (call, name) in enumerate((("unary", "one-step"), ("stream", "some-steps"))):
            step = pb.StepRequest(
                handles=[handle],
                step_indexes=[index],
                inputs=tensors.encode(np.zeros((1, 3), np.float32)),
            )
            metadata = (("x-request-id", name),)
            if call == "unary":
                stub.Step(step, metadata=metadata)
            else:
                list(stub.StreamSteps(iter([pb.StreamStepsRequest(step=step)]), metadata=metadata))
            [family] = [
                family
                for family in families(own, accept=OPENMETRICS)
                if family.name == "carousel_step_duration_seconds"
            ]
            found = {
                one.exemplar.labels["request_id"]: (one.exemplar.value, float(one.labels["le"]))
                for one in family.samples
                if one.exemplar is not None and one.labels["model"] == "tiny"
            }
            seconds, bound = found[name]
            assert 0 < seconds <= bound

"""Families of metrics to messages, and back."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample

from carousel.v1 import admin_service_pb2 as pb

TYPES = {
    "counter": pb.METRIC_TYPE_COUNTER,
    "gauge": pb.METRIC_TYPE_GAUGE,
    "histogram": pb.METRIC_TYPE_HISTOGRAM,
}
NAMES: dict[int, str] = {number: name for name, number in TYPES.items()}
UNITS = frozenset({"seconds", "bytes", "ratio"})  # by which names of metrics end


def statistics(collector: Collector) -> pb.Statistics:
    """All metrics at this moment, in order of their names."""
    message = pb.Statistics()
    message.create_time.FromNanoseconds(time.time_ns())
    for metric in sorted(collector.collect(), key=lambda metric: metric.name):
        family = message.families.add(
            name=metric.name, help=metric.documentation, type=TYPES[metric.type]
        )
        for sample in metric.samples:
            # When a series began doubles their number, and nobody here asks for it.
            if not sample.name.endswith("_created"):
                _add(family, sample)
    return message


def _add(family: pb.MetricFamily, sample: Sample) -> None:
    one = family.samples.add(name=sample.name, labels=sample.labels, value=sample.value)
    if sample.exemplar is not None:
        one.exemplar.labels.update(sample.exemplar.labels)
        one.exemplar.value = sample.exemplar.value
        one.exemplar.create_time.FromNanoseconds(int(float(sample.exemplar.timestamp or 0) * 1e9))


def families(message: pb.Statistics, **labels: str) -> list[Metric]:
    """The families of a message, with these labels added to every sample."""
    return [_family(family, labels) for family in message.families]


def _family(message: pb.MetricFamily, labels: dict[str, str]) -> Metric:
    # A type that this end does not know yet is shown without one.
    kind = NAMES.get(message.type, "unknown")
    unit = message.name.rpartition("_")[2]
    family = Metric(message.name, message.help, kind, unit if unit in UNITS else "")
    family.samples = [
        Sample(one.name, {**one.labels, **labels}, one.value, None, _exemplar(one))
        for one in message.samples
    ]
    return family


def _exemplar(sample: pb.MetricSample) -> Exemplar | None:
    if not sample.HasField("exemplar"):
        return None
    one = sample.exemplar
    return Exemplar(dict(one.labels), one.value, one.create_time.ToNanoseconds() / 1e9)


def merge(groups: Iterable[Iterable[Metric]]) -> list[Metric]:
    """One family for each name, in order, with the samples of all.

    The first says the type and help; families of another type, as of another release, are left out.
    """
    found: dict[str, Metric] = {}
    for group in groups:
        for family in group:
            first = found.setdefault(family.name, family)
            if first is not family and first.type == family.type:
                first.samples.extend(family.samples)
    return [found[name] for name in sorted(found)]

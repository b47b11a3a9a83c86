"""What Prometheus sees: families read from the text that a port shows, by its own parsers."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text

from tests.processes import PATIENCE

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def get(url: str, **headers: str) -> tuple[str, str]:
    """The body, and its content type."""
    request = urllib.request.Request(
        url, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


def families(url: str, *, accept: str = "") -> list[Metric]:
    body, kind = get(f"{url}/metrics", Accept=accept)
    read = openmetrics if kind.startswith("application/openmetrics-text") else text
    return list(read(body))


def samples(found: Iterable[Metric]) -> Samples:
    """Values by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in found
        for sample in family.samples
    }
